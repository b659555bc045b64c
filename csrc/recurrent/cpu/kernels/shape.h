// Sizes that follow from the cell and the vector, the loop over rows and steps, the barrier: what
// the passes share.
#pragma once
#include "cpu/simd/lanes.h"
#include "cpu/simd/product.h"
#include "recurrent/cells/cells.h"
#include "recurrent/cpu/kernels/args.h"

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

// recurrent/rows.h, for the steps of one direction in the order in which they are computed. Written
// again, as its functions are inline: compiled here they would be weak symbols with this
// instruction set's code, which the linker could give to every caller.
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

}  // namespace
}  // namespace fastcells
