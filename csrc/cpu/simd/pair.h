// Two vectors as one arithmetic type: the same unit of two rows. A cell is one long chain of
// operations, of which a core's window holds little more than one; two side by side hide each
// other's latency.
#pragma once
#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

template <class V>
struct Pair {
  using S = typename V::S;
  V a, b;
  Pair() = default;
  FC_INLINE Pair(S s) : a(s), b(s) {}
  FC_INLINE Pair(V a_, V b_) : a(a_), b(b_) {}
};

#define FC_PAIR_OPERATOR(op)                         \
  template <class V>                                 \
  FC_INLINE auto operator op(Pair<V> x, Pair<V> y) { \
    return PairOf(x.a op y.a, x.b op y.b);           \
  }

template <class M>
struct PairOfMasks {
  M a, b;
};
template <class S>
FC_INLINE Pair<Vector<S>> PairOf(Vector<S> a, Vector<S> b) {
  return {a, b};
}
template <class S>
FC_INLINE PairOfMasks<Mask<S>> PairOf(Mask<S> a, Mask<S> b) {
  return {a, b};
}

FC_PAIR_OPERATOR(+)
FC_PAIR_OPERATOR(-)
FC_PAIR_OPERATOR(*)
FC_PAIR_OPERATOR(/)
FC_PAIR_OPERATOR(<)
FC_PAIR_OPERATOR(<=)
#undef FC_PAIR_OPERATOR

template <class M, class V>
FC_INLINE Pair<V> select(PairOfMasks<M> mask, Pair<V> if_true, Pair<V> if_false) {
  return {select(mask.a, if_true.a, if_false.a), select(mask.b, if_true.b, if_false.b)};
}
template <class V>
FC_INLINE Pair<V> larger(Pair<V> x, Pair<V> y) {
  return {larger(x.a, y.a), larger(x.b, y.b)};
}
template <class V>
FC_INLINE Pair<V> below_zero(Pair<V> x) {
  return {below_zero(x.a), below_zero(x.b)};
}
template <class V>
FC_INLINE Pair<V> if_negative(Pair<V> x, Pair<V> a, Pair<V> otherwise) {
  return {if_negative(x.a, a.a, otherwise.a), if_negative(x.b, a.b, otherwise.b)};
}
template <class V>
FC_INLINE Pair<V> power_of_two(Pair<V> shifted) {
  return {power_of_two(shifted.a), power_of_two(shifted.b)};
}
template <class V>
FC_INLINE Pair<V> sigmoid(Pair<V> x) {
  if constexpr (sizeof(typename V::S) == 4) return polynomial::sigmoid(x);
  return {sigmoid(x.a), sigmoid(x.b)};
}
template <class V>
FC_INLINE Pair<V> tanh(Pair<V> x) {
  if constexpr (sizeof(typename V::S) == 4) return polynomial::tanh(x);
  return {tanh(x.a), tanh(x.b)};
}

}  // namespace
}  // namespace fastcells
