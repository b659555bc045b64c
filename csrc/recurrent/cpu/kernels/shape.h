// Sizes that follow from the cell and the vector, the loop over rows and steps, scratch memory:
// what the passes share.
#pragma once
#include "recurrent/cells/cells.h"
#include "recurrent/cpu/kernels/args.h"
#include "cpu/simd/product.h"

namespace fastcells {
namespace {

using std::int64_t;

FC_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
FC_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Storage T_, arithmetic S, and the panels of a cell.
template <class Cell, class T_, class S_>
struct Shape {
  using T = T_;
  using S = S_;
  using V = Vector<S>;
  static constexpr int L = V::kLanes;
  static constexpr int G = Cell::kGates;
  static constexpr int W = G == 1 ? 2 : 1;  // unit vectors of a panel of gates
  static constexpr int R = W * G;           // vectors of a panel of gates
  static constexpr int kUnits = W * L;
  static constexpr int kPlain = 2;  // vectors of a plain panel
  static constexpr int kColumns = kPlain * L;
};

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

// recurrent/rows.h, for the steps of one direction in the order in which they are computed.
struct Steps {
  const cpu::LayerArgs& a;
  FC_INLINE int64_t step(int64_t i) const { return a.reverse ? a.T - 1 - i : i; }
  FC_INLINE int64_t length(int64_t b) const { return a.lengths ? a.lengths[b] : a.T; }
  FC_INLINE bool is_first(int64_t t, int64_t b) const {
    return t == (a.reverse ? length(b) - 1 : 0);
  }
  FC_INLINE bool is_last(int64_t t, int64_t b) const {
    return t == (a.reverse ? 0 : length(b) - 1);
  }
  FC_INLINE int64_t previous(int64_t t) const { return a.reverse ? t + 1 : t - 1; }
  FC_INLINE bool cut_after(int64_t t, int64_t b) const {
    if (!a.resets) return false;
    const int64_t boundary = a.reverse ? t : t + 1;
    return boundary > 0 && boundary < length(b) && a.resets[boundary * a.B + b];
  }
  FC_INLINE bool cut_initial(int64_t b) const {
    return a.resets && !a.reverse && length(b) > 0 && a.resets[b];
  }
};

// Waits until all threads of the barrier are here. Spins, then lets others run: threads may be
// more than cores.
inline void wait(cpu::Barrier* barrier, void (*yield)()) {
  if (barrier->threads == 1) return;
  const int phase = __atomic_load_n(&barrier->phase, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == barrier->threads) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->phase, phase + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int spins = 0; __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) == phase; ++spins) {
    if (spins > 4000) yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

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
