// A vector of float or double as the arithmetic type of the cells, at the width of the instruction
// set that the file is compiled for. Torch-free.
//
// A file chooses that by its first include, one of cpu/simd/{baseline,avx2,avx512}.h: its registers
// and what it has an instruction for, all that differs between them. Everything is in an anonymous
// namespace: no function compiled here for one instruction set can be taken by the linker for
// another. Loads and stores take any address.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "math/activations.h"

namespace fastcells {
namespace {

constexpr int kVectorBytes = Instructions::kVectorBytes;
// Registers of that width: what a product's accumulators, operands and addresses fit into.
constexpr int kRegisters = Instructions::kRegisters;

// bfloat16 as it lies in memory, the upper half of a float; and float16.
struct BFloat16Bits {
  std::uint16_t bits;
};
struct HalfBits {
  std::uint16_t bits;
};

template <class S_>
struct Vector {
  using S = S_;
  static constexpr int kLanes = kVectorBytes / int(sizeof(S));
  typedef S Native __attribute__((vector_size(kVectorBytes)));
  typedef S Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(S)), may_alias));

  Native v;

  Vector() = default;
  FC_INLINE Vector(S s) : v(s - Native{}) {}  // s in every lane
  FC_INLINE static Vector of(Native v) {
    Vector result;
    result.v = v;
    return result;
  }
  FC_INLINE static Vector load(const S* p) { return of(*reinterpret_cast<const Unaligned*>(p)); }
  FC_INLINE void store(S* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
};

#define FC_VECTOR_OPERATOR(op)                                \
  template <class S>                                          \
  FC_INLINE Vector<S> operator op(Vector<S> a, Vector<S> b) { \
    return Vector<S>::of(a.v op b.v);                         \
  }
FC_VECTOR_OPERATOR(+)
FC_VECTOR_OPERATOR(-)
FC_VECTOR_OPERATOR(*)
FC_VECTOR_OPERATOR(/)
#undef FC_VECTOR_OPERATOR

// A lane's condition is all ones or all zeros.
template <class S>
struct Mask {
  decltype(typename Vector<S>::Native{} < typename Vector<S>::Native{}) v;
};
template <class S>
FC_INLINE Mask<S> operator<(Vector<S> a, Vector<S> b) {
  return {a.v < b.v};
}
template <class S>
FC_INLINE Mask<S> operator<=(Vector<S> a, Vector<S> b) {
  return {a.v <= b.v};
}
template <class S>
FC_INLINE Mask<S> operator>(Vector<S> a, Vector<S> b) {
  return {a.v > b.v};
}
template <class S>
FC_INLINE Vector<S> select(Mask<S> mask, Vector<S> if_true, Vector<S> if_false) {
  return Vector<S>::of(mask.v ? if_true.v : if_false.v);
}

// acc += x * w
template <class S>
FC_INLINE void multiply_add(Vector<S>& acc, Vector<S> x, Vector<S> w) {
  Instructions::multiply_add(acc.v, x.v, w.v);
}
// 1 / x for 1 <= x < 2^126, within 2 ulp.
FC_INLINE Vector<float> reciprocal(Vector<float> x) {
  return Vector<float>::of(Instructions::reciprocal(x.v));
}
// x, but no less than the limit; where x is NaN, x.
template <class S>
FC_INLINE Vector<S> larger(Vector<S> limit, Vector<S> x) {
  return Vector<S>::of(Instructions::larger(limit.v, x.v));
}

// ---- activations ----

typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t Bits __attribute__((vector_size(kVectorBytes)));
FC_INLINE Vector<float> below_zero(Vector<float> x) {
  return Vector<float>::of((Vector<float>::Native)((Words)x.v | 0x80000000u));
}
FC_INLINE Vector<float> if_negative(Vector<float> x, Vector<float> a, Vector<float> otherwise) {
  return Vector<float>::of(Instructions::if_negative(x.v, a.v, otherwise.v));
}

FC_INLINE Vector<float> power_of_two(Vector<float> shifted) {
  std::int32_t zero;
  std::memcpy(&zero, &polynomial::kRound, sizeof zero);
  const Bits power = ((Bits)shifted.v - zero + 127) << 23;
  return Vector<float>::of((Vector<float>::Native)power);
}
FC_INLINE Vector<float> sigmoid(Vector<float> x) { return polynomial::sigmoid(x); }
FC_INLINE Vector<float> tanh(Vector<float> x) { return polynomial::tanh(x); }

// e^x for x <= 0, and the logarithm of a row's sum (math/online_softmax.h).
FC_INLINE Vector<float> exp_below(Vector<float> x) {
  return polynomial::exp(larger(Vector<float>(polynomial::kExpLow), x));
}
FC_INLINE Vector<double> exp_below(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = ::exp(x.v[i]);
  return x;
}
template <class S>
FC_INLINE Vector<S> natural_log(Vector<S> x) {
  for (int i = 0; i < Vector<S>::kLanes; ++i) x.v[i] = std::log(x.v[i]);
  return x;
}

// double is for tests and gradient checks: libm, lane by lane.
FC_INLINE Vector<double> sigmoid(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = 1.0 / (1.0 + ::exp(-x.v[i]));
  return x;
}
FC_INLINE Vector<double> tanh(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = ::tanh(x.v[i]);
  return x;
}

// ---- memory: storage to arithmetic and back, whole vectors or the first n lanes ----

template <class S>
FC_INLINE Vector<S> load(const S* p) {
  return Vector<S>::load(p);
}
template <class S>
FC_INLINE void store(S* p, Vector<S> x) {
  x.store(p);
}

typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint16_t UnalignedHalves
    __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

FC_INLINE Vector<float> load(const BFloat16Bits* p) {
  const Halves halves = *reinterpret_cast<const UnalignedHalves*>(p);
  return Vector<float>::of((Vector<float>::Native)(__builtin_convertvector(halves, Words) << 16));
}
// To the nearest, ties to even; NaN stays NaN.
FC_INLINE Words round_to_bfloat16(Vector<float> x) {
  const Words bits = (Words)x.v;
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x.v == x.v ? rounded : Words{} + 0x7fc0;
}
FC_INLINE void store(BFloat16Bits* p, Vector<float> x) {
  *reinterpret_cast<UnalignedHalves*>(p) = __builtin_convertvector(round_to_bfloat16(x), Halves);
}
FC_INLINE Vector<float> load(const HalfBits* p) {
  const Halves halves = *reinterpret_cast<const UnalignedHalves*>(p);
  return Vector<float>::of(Instructions::from_half<Vector<float>::Native>(halves));
}
FC_INLINE void store(HalfBits* p, Vector<float> x) {
  *reinterpret_cast<UnalignedHalves*>(p) = Instructions::to_half<Halves>(x.v);
}
// x as storage T would give it back.
template <class T, class S>
FC_INLINE Vector<S> rounded_to(Vector<S> x) {
  if constexpr (std::is_same_v<T, BFloat16Bits>) {
    return Vector<float>::of((Vector<float>::Native)(round_to_bfloat16(x) << 16));
  } else if constexpr (std::is_same_v<T, HalfBits>) {
    return Vector<float>::of(
        Instructions::from_half<typename Vector<S>::Native>(Instructions::to_half<Halves>(x.v)));
  } else {
    return x;
  }
}
// 32 bits a lane, whatever they mean.
template <class E>
FC_INLINE Words load_words(const E* p) {
  typedef std::uint32_t UnalignedWords
      __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  static_assert(sizeof(E) == 4);
  return *reinterpret_cast<const UnalignedWords*>(p);
}

FC_INLINE Vector<float> load_first(const float* p, int n) {
  Vector<float> x;
  Instructions::load_first(p, n, x.v);
  return x;
}
FC_INLINE void store_first(float* p, Vector<float> x, int n) {
  Instructions::store_first(p, n, x.v);
}
FC_INLINE Vector<double> load_first(const double* p, int n) {
  Vector<double> x(0.0);
  for (int i = 0; i < n; ++i) x.v[i] = p[i];
  return x;
}
FC_INLINE void store_first(double* p, Vector<double> x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
FC_INLINE Vector<float> load_first(const BFloat16Bits* p, int n) {
  Words words{};
  for (int i = 0; i < n; ++i) words[i] = std::uint32_t(p[i].bits) << 16;
  return Vector<float>::of((Vector<float>::Native)words);
}
FC_INLINE void store_first(BFloat16Bits* p, Vector<float> x, int n) {
  const Words rounded = round_to_bfloat16(x);
  for (int i = 0; i < n; ++i) p[i].bits = std::uint16_t(rounded[i]);
}
FC_INLINE Vector<float> load_first(const HalfBits* p, int n) {
  HalfBits all[Vector<float>::kLanes] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return load(all);
}
FC_INLINE void store_first(HalfBits* p, Vector<float> x, int n) {
  HalfBits all[Vector<float>::kLanes];
  store(all, x);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}

}  // namespace
}  // namespace fastcells
