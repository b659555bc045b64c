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

template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached,
          Exchange kExchange = Exchange::kCounters>
using BackwardTraits = SequenceTraits<T, kTier, cuda::kBackwardUnits, 1, Cell::kGates,
                                      Cell::kStates, kBatchTiles, kCached, kExchange>;

template <class Cell, class Traits>
class SequenceBackward : SequenceProduct<SequenceBackwardArgs, SequenceBackwardDirection, Traits> {
  using Product = SequenceProduct<SequenceBackwardArgs, SequenceBackwardDirection, Traits>;
  using typename Product::State, typename Product::Sums, typename Product::T;
  static constexpr int G = Cell::kGates, U = Traits::kGroups, N = Traits::kBatchTiles;
  static constexpr int kSaved = Cell::kSaved;
  static constexpr bool kGrid = Traits::kGrid;
  using Product::a_, Product::d_, Product::T_, Product::B_, Product::H_;
  using Product::is_ours, Product::is_owner, Product::of_row, Product::row, Product::slices_;
  using Product::unit, Product::units_;
  template <class X>
  using Array = typename Product::template Array<X>;

 public:
  FC_DEVICE explicit SequenceBackward(const SequenceBackwardArgs& args)
      : Product(args, /*first_exchange=*/1) {}

  FC_DEVICE void run() {
    // A column is gate by gate the units of the cluster or grid.
    this->load_weights([&](int group, int k) {
      const int gate = k / units_, from = k % units_, to = unit(group);
      const T* const row =
          static_cast<const T*>(d_.weight_hh_t) + std::int64_t(gate * H_ + to) * H_;
      return typename Product::Span{row + from, gate < G && to < H_ ? H_ - from : 0};
    });
    start();
    this->open_exchange();
    if (kGrid) this->take_slice(0);
    begin(0);
    for (int j = 0; j <= T_; ++j) {
      for (int q = 0; q < slices_; ++q) run_step(j);
    }
    this->close_exchange();
  }

 private:
  template <class F>
  FC_DEVICE void each(const F& f) const {
    Product::each(f);
  }
  // Of the step visited as number j; T is behind the last.
  FC_DEVICE int step_of(int j) const { return d_.reverse ? j : T_ - 1 - j; }

  FC_DEVICE void start() {
    this->fill_exchange([](int, int) { return T(0.0f); });
    if (!is_owner()) return;
    this->open_arrays(step_of(0));
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

  FC_DEVICE void run_step(int j) {
    const bool is_first = j == 0, is_behind = j == T_;
    if (!is_first) this->wait_for(j, j);
    if (!is_behind) this->expect(j + 1);
    Sums sums = {};
    if (!is_first) this->multiply(Traits::kPackets ? j : j & 1, sums);
    if (is_owner()) {
      each([&](int n, int g, int e) { d_state_[0][n][g][e] += sums[0][n][g * 2 + e]; });
      is_behind ? finish() : run_cells(j);
      this->keep(d_state_);
      this->advance_arrays(/*follows=*/d_.reverse);
    }
    begin(this->pass_turn(j));
  }
  FC_DEVICE void run_cells(int j) {
    T dx[N][U][2][G], dg[N][U][2][G];
    this->each_pair([&](int n, int g) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) run_cell(n, g, e, dx[n][g][e], dg[n][g][e]);
      FC_UNROLL
      for (int k = 0; k < G; ++k) {
        this->send(j + 1, n, k, g, dg[n][g][0][k], dg[n][g][1][k]);
      }
    });
    this->publish();
    const auto dx_gates = this->array(static_cast<T*>(d_.dx_gates), G * H_);
    const auto dg_gates = this->array(static_cast<T*>(d_.dg_gates), G * H_);
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      FC_UNROLL
      for (int k = 0; k < G; ++k) {
        dx_gates(n, g, e, k * H_) = dx[n][g][e][k];
        if constexpr (!Cell::kAdditive) dg_gates(n, g, e, k * H_) = dg[n][g][e][k];
      }
    });
  }

  FC_DEVICE void run_cell(int n, int g, int e, T (&to_dx)[G], T (&to_dg)[G]) {
    FC_UNROLL
    for (int k = 0; k < G; ++k) to_dx[k] = to_dg[k] = T(0.0f);
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
    float dx[G], dg[G];
    Cell::backward(saved, prev, next, d_state, dx, dg);
    FC_UNROLL
    for (int k = 0; k < G; ++k) to_dx[k] = T(dx[k]), to_dg[k] = T(dg[k]);
    FC_UNROLL
    for (int k = 0; k < Cell::kStates; ++k) d_state_[k][n][g][e] = d_state[k];
  }

  // ---- what a step reads from memory, asked for before the wait ----

  // As it is stored: whoever converts a number waits for it.
  struct Fetched {
    T saved[kSaved], h, d_output;
    float c, c_next, d_cell;  // of a cell with c
  };

  FC_DEVICE void begin(int j) {
    if (!is_owner() || j > T_) return;
    this->take(d_state_);
    if (j < T_) fetch(step_of(j));
  }
  FC_DEVICE void fetch(int t) {
    const int previous = d_.reverse ? t + 1 : t - 1;
    bool is_first[N][2], is_zero[N][2];
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int b = row(n, e), length = b < B_ ? this->length(b) : 0;
        exists_[n][e] = t < length;
        is_first[n][e] = t == (d_.reverse ? length - 1 : 0), is_zero[n][e] = false;
        if (!exists_[n][e]) continue;
        cut_[n][e] = this->cut_after(t, b);
        is_zero[n][e] = is_first[n][e] ? this->cut_initial(b) : this->cut_after(previous, b);
      }
    }
    // What entered a step left the one visited next.
    const int next = d_.reverse ? B_ : -B_;
    const Sources now{this->array(static_cast<const T*>(d_.saved), a_.saved_stride),
                      this->array(static_cast<const T*>(d_.output), a_.output_stride, next),
                      this->array(static_cast<const T*>(d_.d_output), a_.output_stride),
                      this->array(d_.cells, a_.cells_stride),
                      this->array(d_.cells, a_.cells_stride, next),
                      this->array(d_.d_cells, a_.cells_stride)};
    each([&](int n, int g, int e) {
      if (!exists_[n][e] || unit(g) >= H_) return;
      Fetched& to = fetched_[n][g][e];
      fetch_unit(to, now, n, g, e);
      to.h = T(0.0f), to.c = 0.0f;
      if (is_zero[n][e]) return;
      if (is_first[n][e]) {
        fetch_initial(to, row(n, e), unit(g));
      } else {
        to.h = now.entering(n, g, e);
        if constexpr (Cell::kStates == 2) to.c = now.cells_entering(n, g, e);
      }
    });
  }
  struct Sources {
    Array<const T> saved, entering, d_output;
    Array<const float> cells, cells_entering, d_cells;
  };
  FC_DEVICE void fetch_unit(Fetched& to, const Sources& from, int n, int g, int e) const {
    FC_UNROLL
    for (int k = 0; k < kSaved; ++k) to.saved[k] = from.saved(n, g, e, k * H_);
    to.d_output = from.d_output.at ? from.d_output(n, g, e) : T(0.0f);
    if constexpr (Cell::kStates == 2) {
      to.c_next = from.cells(n, g, e);
      to.d_cell = from.d_cells.at ? from.d_cells(n, g, e) : 0.0f;
    }
  }
  // The states that entered the first step.
  FC_DEVICE void fetch_initial(Fetched& to, int b, int u) const {
    to.h = of_row(d_.h_0, b, u);
    if constexpr (Cell::kStates == 2) to.c = float(of_row(d_.c_0, b, u));
  }

  FC_DEVICE void finish() const {
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      const bool cut = this->cut_initial(row(n, e));
      const std::int64_t at = std::int64_t(row(n, e)) * H_ + unit(g);
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
