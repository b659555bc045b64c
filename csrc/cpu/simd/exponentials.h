// math/exponentials.h of vectors, and of pairs of them. Torch-free.
#pragma once
#include "cpu/simd/pair.h"
#include "math/exponentials.h"

namespace fastcells {
namespace {

FC_INLINE Vector<float> one_minus_exp(Vector<float> x) {
  return polynomial::one_minus_exp(larger(Vector<float>(polynomial::kExpLow), x));
}
FC_INLINE Vector<double> one_minus_exp(Vector<double> x) {
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = -::expm1(x.v[i]);
  return x;
}
template <class S>
FC_INLINE Vector<S> square_root(Vector<S> x) {
  return Vector<S>::of(Instructions::square_root(x.v));
}

template <class V>
FC_INLINE Pair<V> exp_below(Pair<V> x) {
  return {exp_below(x.a), exp_below(x.b)};
}
template <class V>
FC_INLINE Pair<V> one_minus_exp(Pair<V> x) {
  return {one_minus_exp(x.a), one_minus_exp(x.b)};
}
template <class V>
FC_INLINE Pair<V> square_root(Pair<V> x) {
  return {square_root(x.a), square_root(x.b)};
}

}  // namespace
}  // namespace fastcells
