// Sums over the lanes of vectors.
#pragma once
#include "cpu/simd/transpose.h"

namespace fastcells {
namespace {

template <class S>
FC_INLINE S sum_of(Vector<S> x) {
  S sum = 0;
  for (int l = 0; l < Vector<S>::kLanes; ++l) sum += x.v[l];
  return sum;
}

// x, but 0 where the factor that x was made with is 0, were the other NaN.
template <class S>
FC_INLINE Vector<S> unless_zero(Vector<S> factor, Vector<S> x) {
  return Vector<S>::of(factor.v == S(0) ? Vector<S>(S(0)).v : x.v);
}

// The sums over the lanes of four vectors.
typedef float Four __attribute__((vector_size(16)));
FC_INLINE Four sum_lanes(const Vector<float> (&x)[4]) {
  constexpr int L = Vector<float>::kLanes;
  LaneIndex<float> low, high, even, odd;  // within each four lanes
  FC_UNROLL
  for (int i = 0; i < L; ++i) {
    const int four = i / 4 * 4, place = i % 4;
    low[i] = four + place / 2 + place % 2 * L, high[i] = low[i] + 2;
    even[i] = four + place % 2 + place / 2 * L, odd[i] = even[i] + 2;
  }
  const auto ab = __builtin_shuffle(x[0].v, x[1].v, low) + __builtin_shuffle(x[0].v, x[1].v, high);
  const auto cd = __builtin_shuffle(x[2].v, x[3].v, low) + __builtin_shuffle(x[2].v, x[3].v, high);
  const auto sums = __builtin_shuffle(ab, cd, even) + __builtin_shuffle(ab, cd, odd);
  Four total;
  std::memcpy(&total, &sums, sizeof total);
  FC_UNROLL
  for (int part = 1; part < L / 4; ++part) {
    Four more;
    std::memcpy(&more, reinterpret_cast<const char*>(&sums) + part * sizeof more, sizeof more);
    total = total + more;
  }
  return total;
}

template <class S>
FC_INLINE void sums_of(const Vector<S> (&x)[4], S* to) {
  if constexpr (sizeof(S) == 4) {
    const Four sums = sum_lanes(x);
    std::memcpy(to, &sums, sizeof sums);
  } else {
    for (int m = 0; m < 4; ++m) to[m] = sum_of(x[m]);
  }
}

}  // namespace
}  // namespace fastcells
