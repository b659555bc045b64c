// Vectors of real and of complex numbers with the one operation of a scan. A complex number is two
// lanes side by side, its real part first, so that both are rows of parts in memory.
#pragma once
#include <utility>

#include "cpu/simd/lanes.h"

namespace fastcells {
namespace {

template <class T_, class S_>
struct Real {
  using T = T_;  // storage of a part
  using S = S_;
  using V = Vector<S>;
  static constexpr int kParts = 1;

  // a x + b, or conj(a) x + b.
  template <bool kConjugate>
  FC_INLINE static V multiply_add(V a, V x, V b) {
    fastcells::multiply_add(b, a, x);
    return b;
  }
  // Not `a * x`, which the compiler may join with a sum that comes next.
  FC_INLINE static V multiply(V a, V x) { return multiply_add<false>(a, x, V(S(0))); }
  FC_INLINE static V conjugate_multiply(V a, V x) { return multiply(a, x); }
};

template <class S_>
struct Complex {
  using T = S_;
  using S = S_;
  using V = Vector<S>;
  static constexpr int kParts = 2;

  template <bool kConjugate>
  FC_INLINE static V multiply_add(V a, V x, V b) {
    fastcells::multiply_add(b, real_parts(a), x);
    fastcells::multiply_add(b, with_signs<kConjugate>(imaginary_parts(a)), swapped(x));
    return b;
  }
  FC_INLINE static V multiply(V a, V x) { return multiply_add<false>(a, x, V(S(0))); }
  FC_INLINE static V conjugate_multiply(V a, V x) { return multiply_add<true>(a, x, V(S(0))); }

 private:
  using Lanes = std::make_integer_sequence<int, V::kLanes>;
  template <int... kLane>
  FC_INLINE static V real_parts(V x, std::integer_sequence<int, kLane...>) {
    return V::of(__builtin_shufflevector(x.v, x.v, (kLane & ~1)...));
  }
  template <int... kLane>
  FC_INLINE static V imaginary_parts(V x, std::integer_sequence<int, kLane...>) {
    return V::of(__builtin_shufflevector(x.v, x.v, (kLane | 1)...));
  }
  template <int... kLane>
  FC_INLINE static V swapped(V x, std::integer_sequence<int, kLane...>) {
    return V::of(__builtin_shufflevector(x.v, x.v, (kLane ^ 1)...));
  }
  template <bool kConjugate, int... kLane>
  FC_INLINE static V with_signs(V x, std::integer_sequence<int, kLane...>) {
    // i i = -1 in the real part, conj(i) 1 = -i in the imaginary one
    const typename V::Native signs = {((kLane & 1) == kConjugate ? S(-1) : S(1))...};
    return V::of(x.v * signs);
  }
  FC_INLINE static V real_parts(V x) { return real_parts(x, Lanes()); }
  FC_INLINE static V imaginary_parts(V x) { return imaginary_parts(x, Lanes()); }
  FC_INLINE static V swapped(V x) { return swapped(x, Lanes()); }
  template <bool kConjugate>
  FC_INLINE static V with_signs(V x) {
    return with_signs<kConjugate>(x, Lanes());
  }
};

}  // namespace
}  // namespace fastcells
