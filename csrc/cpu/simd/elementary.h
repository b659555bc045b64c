// math/elementary.h of vectors, and of pairs of them. Torch-free.
#pragma once
#include "cpu/simd/exponentials.h"
#include "math/elementary.h"

namespace fastcells {
namespace {

// e^x, whose square root is taken in its place where a power of two would leave the exponent.
FC_INLINE Vector<float> exponential(Vector<float> x) {
  const Vector<float> high(polynomial::kExpHigh), low(polynomial::kExpLow);
  const Mask<float> is_high = high < x;
  Vector<float> y = select(is_high, Vector<float>(0.5f) * x, x);
  y = select(high < y, high, larger(low, y));
  const Vector<float> e = polynomial::exp(y);
  return select(is_high, e * e, e);
}

// x = 2^n m, m in sqrt(1/2) .. sqrt(2): n ln 2 + log m (S. L. Moshier, Cephes library, logf.c).
FC_INLINE Vector<float> logarithm(Vector<float> x) {
  using V = Vector<float>;
  const V one(1.0f), zero(0.0f), infinity(__builtin_inff());
  const Words bits = (Words)x.v;
  const V half = V::of((V::Native)((bits & 0x007FFFFFu) | 0x3F000000u));  // in 1/2 .. 1
  const V power = V::of(__builtin_convertvector((Bits)(bits >> 23) - 126, V::Native));
  const Mask<float> is_low = half < V(0.707106781f);
  const V n = select(is_low, power - one, power);
  const V m = select(is_low, half + half, half) - one, m2 = m * m;
  V p = V(7.0376836292e-2f);
  p = p * m - V(1.1514610310e-1f);
  p = p * m + V(1.1676998740e-1f);
  p = p * m - V(1.2420140846e-1f);
  p = p * m + V(1.4249322787e-1f);
  p = p * m - V(1.6668057665e-1f);
  p = p * m + V(2.0000714765e-1f);
  p = p * m - V(2.4999993993e-1f);
  p = p * m + V(3.3333331174e-1f);
  const V tail = p * m * m2 + n * V(-2.12194440e-4f) - V(0.5f) * m2;
  V result = (m + tail) + n * V(0.693359375f);
  result = select(x < infinity, result, x);                          // infinity and NaN
  result = select(x < V(1.17549435e-38f), zero - infinity, result);  // 0, and what counts as 0
  return select(x < zero, V(__builtin_nanf("")), result);
}

// max(x, 0) + log(1 + e^-|x|), the second term by the rounding error of 1 + e^-|x|.
FC_INLINE Vector<float> softplus(Vector<float> x) {
  using V = Vector<float>;
  const V zero(0.0f), one(1.0f), u = exp_below(below_zero(x)), w = one + u;
  const V log_w = logarithm(w) + (u - (w - one)) / w;
  return select(x < zero, zero, x) + log_w;
}

// Lane by lane, by libm.
#define FC_LANE_BY_LANE(function)                                                        \
  template <class S>                                                                     \
  FC_INLINE Vector<S> function(Vector<S> x) {                                            \
    for (int i = 0; i < Vector<S>::kLanes; ++i) x.v[i] = fastcells::function(S(x.v[i])); \
    return x;                                                                            \
  }
FC_LANE_BY_LANE(sine)
FC_LANE_BY_LANE(cosine)
FC_LANE_BY_LANE(error_function)
#undef FC_LANE_BY_LANE
FC_INLINE Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = ::exp(x.v[i]);
  return x;
}
FC_INLINE Vector<double> logarithm(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = ::log(x.v[i]);
  return x;
}
FC_INLINE Vector<double> softplus(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = fastcells::softplus(double(x.v[i]));
  return x;
}
template <class S>
FC_INLINE Vector<S> power(Vector<S> x, Vector<S> y) {
  for (int i = 0; i < Vector<S>::kLanes; ++i) x.v[i] = fastcells::power(S(x.v[i]), S(y.v[i]));
  return x;
}

#define FC_PAIR_FUNCTION(function)         \
  template <class V>                       \
  FC_INLINE Pair<V> function(Pair<V> x) {  \
    return {function(x.a), function(x.b)}; \
  }
FC_PAIR_FUNCTION(exponential)
FC_PAIR_FUNCTION(logarithm)
FC_PAIR_FUNCTION(softplus)
FC_PAIR_FUNCTION(sine)
FC_PAIR_FUNCTION(cosine)
FC_PAIR_FUNCTION(error_function)
#undef FC_PAIR_FUNCTION
template <class V>
FC_INLINE Pair<V> power(Pair<V> x, Pair<V> y) {
  return {power(x.a, y.a), power(x.b, y.b)};
}

}  // namespace
}  // namespace fastcells
