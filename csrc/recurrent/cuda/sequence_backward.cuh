// A layer back through all its steps in one kernel: W_hh stays on the chip, the gates' gradients go
// from block to block.
//
//   grid and blocks as on the way forward (sequence_forward.cuh), but a warp owns 16 units. Every
//   step, the last one first, per warp:
//
//     wait                  for the gates' gradients of the step visited before, of all units
//     W_hh^T dg             own units are M, batch rows N, all gates of all units K
//     d_state               += that, + what the outputs bring
//     cell, backward        a lane holds two units and two rows
//     dg to every block     into the other of two buffers
//
// Nothing that the forward pass saved is written to. dW, db and d_input are large products of
// dx_gates and dg_gates after the kernel. The two buffers are safe by the argument made there.
#pragma once
#include "recurrent/cells/cells.h"
#include "recurrent/cuda/sequence_args.h"
#include "recurrent/cuda/sequence_product.cuh"

namespace fastcells {

template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached>
using BackwardTraits = SequenceTraits<T, kTier, cuda::kBackwardUnits, 1, Cell::kGates,
                                      Cell::kStates, kBatchTiles, kCached>;

template <class Cell, class Traits>
class SequenceBackward : SequenceProduct<SequenceBackwardArgs, SequenceBackwardDirection, Traits> {
  using Product = SequenceProduct<SequenceBackwardArgs, SequenceBackwardDirection, Traits>;
  using typename Product::State, typename Product::Sums, typename Product::T;
  static constexpr int G = Cell::kGates, U = Traits::kGroups, N = Traits::kBatchTiles;
  static constexpr int kSaved = Cell::kSaved;
  static constexpr bool kGrid = Traits::kGrid;
  using Product::a_, Product::d_, Product::first_unit_, Product::is_ours, Product::is_owner;
  using Product::of_row, Product::row, Product::rows_, Product::slices_, Product::unit;
  using Product::units_;

 public:
  FC_DEVICE explicit SequenceBackward(const SequenceBackwardArgs& args) : Product(args) {}

  FC_DEVICE void run() {
    // A column is gate by gate the units of the cluster or grid.
    this->load_weights([&](int group, int k) {
      const std::int64_t gate = k / units_, from = k % units_, to = unit(group);
      if (gate >= G || from >= a_.H || to >= a_.H) return T(0.0f);
      return static_cast<const T*>(d_.weight_hh)[(gate * a_.H + from) * a_.H + to];
    });
    start();
    this->open_exchange();
    if (kGrid) this->take_slice(0);
    begin(0);
    for (std::int64_t j = 0; j <= a_.T; ++j) {
      for (int q = 0; q < slices_; ++q) run_step(j);
    }
    this->close_exchange();
  }

 private:
  template <class F>
  FC_DEVICE static void each(const F& f) {
    Product::each(f);
  }
  // Of the step visited as number j; T is behind the last.
  FC_DEVICE std::int64_t step_of(std::int64_t j) const { return d_.reverse ? j : a_.T - 1 - j; }

  FC_DEVICE void start() {
    this->fill_exchange([](int, int) { return T(0.0f); });
    if (!is_owner()) return;
    for (int q = 0; q < slices_; ++q) {
      if (kGrid) this->take_slice(q);
      each([&](int n, int g, int e) {
        const bool ours = is_ours(n, g, e);
        d_state_[0][n][g][e] = ours ? float(of_row(d_.d_h_n, row(n, e), unit(g))) : 0.0f;
        if constexpr (Cell::kStates == 2) {
          d_state_[1][n][g][e] = ours ? float(of_row(d_.d_c_n, row(n, e), unit(g))) : 0.0f;
        }
      });
      this->keep(d_state_);
    }
  }

  // ---- a step of a slice ----

  FC_DEVICE void run_step(std::int64_t j) {
    const bool is_first = j == 0, is_behind = j == a_.T;
    if (!is_first) this->wait_for(j);
    if (!is_behind) this->expect(j + 1);
    Sums sums = {};
    if (!is_first) this->multiply(int(j & 1), sums);
    if (is_owner()) {
      each([&](int n, int g, int e) { d_state_[0][n][g][e] += sums[0][n][g * 2 + e]; });
      is_behind ? finish() : run_cells(j);
      this->keep(d_state_);
    }
    begin(this->pass_turn(j));
  }
  FC_DEVICE void run_cells(std::int64_t j) {
    float dx[N][U][2][G], dg[N][U][2][G];
    each([&](int n, int g, int e) { run_cell(n, g, e, dx[n][g][e], dg[n][g][e]); });
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int g = 0; g < U; ++g) {
        FC_UNROLL
        for (int k = 0; k < G; ++k) {
          this->send(j + 1, n, k * units_ + first_unit_ + g * kGroupUnits, T(dg[n][g][0][k]),
                     T(dg[n][g][1][k]));
        }
      }
    }
    this->publish(j + 1);
    const std::int64_t t = step_of(j);
    each([&](int n, int g, int e) { store_gates(t, n, g, e, dx[n][g][e], dg[n][g][e]); });
  }

  FC_DEVICE void run_cell(int n, int g, int e, float (&dx)[G], float (&dg)[G]) {
    FC_UNROLL
    for (int k = 0; k < G; ++k) dx[k] = dg[k] = 0.0f;
    if (!exists_[n][e] || !is_ours(n, g, e)) return;
    const Fetched& from = fetched_[n][g][e];
    float saved[kSaved], prev[Cell::kStates], next[Cell::kStates], d_state[Cell::kStates];
    FC_UNROLL
    for (int k = 0; k < kSaved; ++k) saved[k] = float(from.saved[k]);
    prev[0] = float(from.h), next[0] = 0.0f;
    d_state[0] = float(from.d_output) + (cut_[n][e] ? 0.0f : d_state_[0][n][g][e]);
    if constexpr (Cell::kStates == 2) {
      prev[1] = from.c, next[1] = from.c_next;
      d_state[1] = from.d_cell + (cut_[n][e] ? 0.0f : d_state_[1][n][g][e]);
    }
    Cell::backward(saved, prev, next, d_state, dx, dg);
    FC_UNROLL
    for (int k = 0; k < Cell::kStates; ++k) d_state_[k][n][g][e] = d_state[k];
  }

  FC_DEVICE void store_gates(std::int64_t t, int n, int g, int e, const float (&dx)[G],
                             const float (&dg)[G]) const {
    if (!is_ours(n, g, e)) return;
    const std::int64_t at = (t * a_.B + row(n, e)) * G * a_.H + unit(g);
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      static_cast<T*>(d_.dx_gates)[at + k * a_.H] = T(dx[k]);
      if (!Cell::kAdditive) static_cast<T*>(d_.dg_gates)[at + k * a_.H] = T(dg[k]);
    }
  }

  // ---- what a step reads from memory, asked for before the wait ----

  // As it is stored: whoever converts a number waits for it.
  struct Fetched {
    T saved[kSaved], h, d_output;
    float c, c_next, d_cell;  // of a cell with c
  };

  FC_DEVICE void begin(std::int64_t j) {
    if (!is_owner() || j > a_.T) return;
    this->take(d_state_);
    if (j < a_.T) fetch(step_of(j));
  }
  FC_DEVICE void fetch(std::int64_t t) {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const std::int64_t b = row(n, e);
        exists_[n][e] = b < a_.B && t < rows_.length(b);
        if (!exists_[n][e]) continue;
        cut_[n][e] = rows_.cut_after(t, b);
        const bool is_first = rows_.is_first(t, b);
        const std::int64_t previous = rows_.previous(t);
        const bool is_zero = is_first ? rows_.cut_initial(b) : rows_.cut_after(previous, b);
        FC_UNROLL
        for (int g = 0; g < U; ++g) {
          if (unit(g) >= a_.H) continue;
          fetch_unit(fetched_[n][g][e], t * a_.B + b, unit(g));
          fetch_entering(fetched_[n][g][e], is_first, is_zero, previous * a_.B + b, b, unit(g));
        }
      }
    }
  }
  FC_DEVICE void fetch_unit(Fetched& to, std::int64_t at, std::int64_t u) const {
    FC_UNROLL
    for (int k = 0; k < kSaved; ++k) {
      to.saved[k] = static_cast<const T*>(d_.saved)[at * a_.saved_stride + k * a_.H + u];
    }
    to.d_output = T(0.0f);
    if (d_.d_output) to.d_output = static_cast<const T*>(d_.d_output)[at * a_.output_stride + u];
    if constexpr (Cell::kStates == 2) {
      to.c_next = d_.cells[at * a_.cells_stride + u];
      to.d_cell = d_.d_cells ? d_.d_cells[at * a_.cells_stride + u] : 0.0f;
    }
  }
  // The states that entered the step: those of the one before it, the initial ones, or zero.
  FC_DEVICE void fetch_entering(Fetched& to, bool is_first, bool is_zero, std::int64_t previous,
                                std::int64_t b, std::int64_t u) const {
    to.h = T(0.0f), to.c = 0.0f;
    if (is_zero) return;
    if (is_first) {
      to.h = of_row(d_.h_0, b, u);
      if constexpr (Cell::kStates == 2) to.c = float(of_row(d_.c_0, b, u));
      return;
    }
    to.h = static_cast<const T*>(d_.output)[previous * a_.output_stride + u];
    if constexpr (Cell::kStates == 2) to.c = d_.cells[previous * a_.cells_stride + u];
  }

  FC_DEVICE void finish() const {
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      const bool cut = rows_.cut_initial(row(n, e));
      const std::int64_t at = row(n, e) * a_.H + unit(g);
      d_.d_h_0[at] = cut ? 0.0f : d_state_[0][n][g][e];
      if constexpr (Cell::kStates == 2) d_.d_c_0[at] = cut ? 0.0f : d_state_[1][n][g][e];
    });
  }

  // Of the step and slice that come next.
  State d_state_;
  bool exists_[N][2], cut_[N][2];
  Fetched fetched_[N][U][2];
};

template <class Cell, class Traits>
__global__ void __launch_bounds__(cuda::kMostWarps* cuda::kWarpLanes, 1)
    sequence_backward_kernel(const __grid_constant__ SequenceBackwardArgs args) {
  if constexpr (!Traits::kCluster || ptx::kHasClusters) {
    SequenceBackward<Cell, Traits>(args).run();
  }
}

}  // namespace fastcells
