// Whole vectors and what is left of one at an edge, shares of threads, scratch memory: what the
// kernels of every topic use.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

using std::int64_t;

FC_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
FC_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

struct Range {
  int64_t first, last;
};
// The share of thread `rank` of `threads` in `count` things.
FC_INLINE Range share_of(int64_t count, int rank, int threads) {
  return {count * rank / threads, count * (rank + 1) / threads};
}

// Whole vectors, or the first n lanes at an edge.
template <class V, class T>
FC_INLINE V load_lanes(const T* p, int64_t n) {
  return n >= V::kLanes ? load(p) : load_first(p, int(n));
}
template <class V, class T>
FC_INLINE void store_lanes(T* p, V x, int64_t n) {
  if (n >= V::kLanes) {
    store(p, x);
  } else {
    store_first(p, x, int(n));
  }
}

// Scratch memory, handed out in whole cache lines. From nullptr it only counts.
struct Arena {
  char* base;
  std::size_t used = 0;
  template <class X>
  FC_INLINE X* take(int64_t count) {
    char* const p = base + used;
    used += (std::size_t(count) * sizeof(X) + 63) & ~std::size_t(63);
    return base ? reinterpret_cast<X*>(p) : nullptr;
  }
};

// Rows of storage as rows of arithmetic: in place where they are the same, else converted.
template <class S, class T>
FC_INLINE const S* as_arithmetic(const T* row, int64_t n, S* converted) {
  if constexpr (sizeof(T) == sizeof(S)) {
    return row;
  } else {
    using V = Vector<S>;
    for (int64_t j = 0; j < n; j += V::kLanes) {
      store_lanes(converted + j, load_lanes<V>(row + j, n - j), n - j);
    }
    return converted;
  }
}

}  // namespace
}  // namespace fastcells
