// Sizes that follow from the cell and the vector, the loop over rows and steps, the barrier: what
// the passes share.
#pragma once
#include "cpu/simd/lanes.h"
#include "cpu/simd/product.h"
#include "recurrent/cells/cells.h"
#include "recurrent/cpu/kernels/args.h"
#include "recurrent/rows.h"

namespace fastcells {
namespace {

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

// The rows of one direction, with its steps in the order in which they are computed.
struct Steps : Rows {
  FC_INLINE explicit Steps(const cpu::LayerArgs& a)
      : Rows{a.lengths, a.resets, a.T, a.B, a.reverse} {}
  FC_INLINE int64_t step(int64_t i) const { return reverse ? T - 1 - i : i; }
  FC_INLINE bool is_last(int64_t t, int64_t b) const { return t == (reverse ? 0 : length(b) - 1); }
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

}  // namespace
}  // namespace fastcells
