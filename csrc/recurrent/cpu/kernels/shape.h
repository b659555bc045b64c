// Sizes that follow from the cell and the vector, the loop over rows and steps, the barrier: what
// the passes share.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/simd/lanes.h"
#include "cpu/simd/product.h"
#include "recurrent/cells/cells.h"
#include "recurrent/cpu/kernels/args.h"
#include "rows.h"

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

// What packing and products ask of a cell.
template <int G>
struct GateCount {
  static constexpr int kGates = G;
};
// A layer as one product sees it: columns, of which each is a unit of one gate.
using Columns = GateCount<1>;

// The rows of one direction, with its steps in the order in which they are computed.
struct Steps : Rows {
  FC_INLINE explicit Steps(const cpu::LayerArgs& a)
      : Rows{a.lengths, a.resets, a.T, a.B, a.reverse} {}
  FC_INLINE int64_t step(int64_t i) const { return reverse ? T - 1 - i : i; }
  FC_INLINE bool is_last(int64_t t, int64_t b) const { return t == (reverse ? 0 : length(b) - 1); }
};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until all threads of the barrier are here. Spins, then sleeps: threads may be more than
// cores, or two of them on one core, where each keeps the other from what it waits for.
inline void wait(cpu::Barrier* barrier) {
  if (barrier->threads == 1) return;
  const int phase = __atomic_load_n(&barrier->phase, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == barrier->threads) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    // In this order on both sides: whoever is not seen asleep here sees the phase in the kernel.
    __atomic_store_n(&barrier->phase, phase + 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&barrier->sleepers, __ATOMIC_SEQ_CST) > 0) {
      syscall(SYS_futex, &barrier->phase, FUTEX_WAKE_PRIVATE, barrier->threads, nullptr, nullptr,
              0);
    }
    return;
  }
  const auto is_over = [&] { return __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) != phase; };
  for (int turns = 0; turns < barrier->patience && !is_over(); ++turns) pause();
  if (is_over()) return;
  __atomic_add_fetch(&barrier->sleepers, 1, __ATOMIC_SEQ_CST);
  while (!is_over()) {
    syscall(SYS_futex, &barrier->phase, FUTEX_WAIT_PRIVATE, phase, nullptr, nullptr, 0);
  }
  __atomic_sub_fetch(&barrier->sleepers, 1, __ATOMIC_RELAXED);
}

}  // namespace
}  // namespace fastcells
