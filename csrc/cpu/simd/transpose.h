// Blocks of a row-major matrix as columns and back: lanes hold rows.
#pragma once
#include "cpu/simd/lanes.h"

namespace fastcells {
namespace {

template <class S>
using LaneIndex = decltype(Mask<S>::v);

// {a[0], b[0], a[1], b[1], ..} (from the lower halves), or the same of the upper halves.
template <int kFirst, class S>
FC_INLINE Vector<S> interleave(Vector<S> a, Vector<S> b) {
  LaneIndex<S> index;
  FC_UNROLL
  for (int i = 0; i < Vector<S>::kLanes; ++i) {
    index[i] = kFirst + i / 2 + (i % 2) * Vector<S>::kLanes;
  }
  return Vector<S>::of(__builtin_shuffle(a.v, b.v, index));
}

template <class S>
FC_INLINE void transpose_lanes(Vector<S> (&x)[Vector<S>::kLanes]) {
  constexpr int L = Vector<S>::kLanes;
  FC_UNROLL
  for (int stage = 1; stage < L; stage *= 2) {
    Vector<S> y[L];
    FC_UNROLL
    for (int i = 0; i < L / 2; ++i) {
      y[2 * i] = interleave<0>(x[i], x[i + L / 2]);
      y[2 * i + 1] = interleave<L / 2>(x[i], x[i + L / 2]);
    }
    FC_UNROLL
    for (int i = 0; i < L; ++i) x[i] = y[i];
  }
}

// A mask's byte as what is added to a score: 0, or minus infinity for false.
FC_INLINE Vector<float> load(const bool* p, float) {
  Vector<float> x;
  for (int i = 0; i < Vector<float>::kLanes; ++i) x.v[i] = p[i] ? 0.0f : -__builtin_inff();
  return x;
}
FC_INLINE Vector<double> load(const bool* p, double) {
  Vector<double> x;
  for (int i = 0; i < Vector<double>::kLanes; ++i) x.v[i] = p[i] ? 0.0 : -__builtin_inf();
  return x;
}
template <class T, class S>
FC_INLINE Vector<S> load(const T* p, S) {
  return load(p);
}
template <class T, class S>
FC_INLINE Vector<S> load_edge(const T* p, int n, S) {
  if constexpr (sizeof(T) == 1) {
    bool edge[Vector<S>::kLanes] = {};
    for (int i = 0; i < n; ++i) edge[i] = p[i];
    return load(edge, S());
  } else {
    return load_first(p, n);
  }
}

// to[c * to_stride + r] = from[r * from_stride + c] * factor for r < lanes, c < columns. Rows from
// `rows` on become 0.
template <class T, class S>
inline void rows_to_lanes(const T* from, int64_t from_stride, int64_t rows, int64_t columns, S* to,
                          int64_t to_stride, S factor) {
  using V = Vector<S>;
  constexpr int L = V::kLanes;
  for (int64_t c = 0; c < columns; c += L) {
    const int n = int(at_most(L, columns - c));
    V x[L];
    FC_UNROLL
    for (int r = 0; r < L; ++r) {
      const T* const p = from + r * from_stride + c;
      x[r] = r >= rows ? V(S(0)) : n == L ? load(p, S()) : load_edge(p, n, S());
      x[r] = x[r] * V(factor);
    }
    transpose_lanes(x);
    FC_UNROLL
    for (int i = 0; i < L; ++i) {
      if (i < n) x[i].store(to + (c + i) * to_stride);
    }
  }
}

// to[r * to_stride + c] = from[c * from_stride + r] * factor[r] for r < rows, c < columns; added to
// what is there if kAdd.
template <bool kAdd = false, class T, class S>
inline void lanes_to_rows(const S* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                          int64_t to_stride, Vector<S> factor) {
  using V = Vector<S>;
  constexpr int L = V::kLanes;
  for (int64_t c = 0; c < columns; c += L) {
    const int64_t n = columns - c;
    V x[L];
    FC_UNROLL
    for (int i = 0; i < L; ++i) {
      x[i] = i < n ? V::load(from + (c + i) * from_stride) * factor : V(S(0));
    }
    transpose_lanes(x);
    FC_UNROLL
    for (int r = 0; r < L; ++r) {
      if (r >= rows) continue;
      T* const p = to + r * to_stride + c;
      if constexpr (kAdd) x[r] = x[r] + load_lanes<V>(p, n);
      store_lanes(p, x[r], n);
    }
  }
}

}  // namespace
}  // namespace fastcells
