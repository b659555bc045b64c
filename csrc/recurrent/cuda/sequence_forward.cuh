// A layer through all its steps in one kernel: W_hh stays on the chip, h goes from block to block.
//
//   grid (blocks of a cluster x slices of the batch, directions), or with Tier::kGrid
//   (blocks, directions), which takes one slice after the other in every step. A block owns the
//   units of its warps, all gates of each. Every step, per warp:
//
//     wait                  for h of all units
//     g = W_hh h            sequence_product.cuh: gates and units are M, batch rows N, all units K
//     cell                  on the accumulators: a lane holds all gates of a unit and two rows
//     h to every block      into the other of two buffers
//
// Why the other buffer may be written: whoever sends h of step i has the h of step i - 1 of every
// warp that owns units, and such a warp sends that after it, and whoever shares its units, has read
// the buffer in question for the last time.
//
// Half j of a warp's tiles is gate j % G of unit group j / G, so that rows r and r + 8 of an
// accumulator are two gates of one unit, or one gate of two groups.
#pragma once
#include "recurrent/cells/cells.h"
#include "recurrent/cuda/sequence_args.h"
#include "recurrent/cuda/sequence_product.cuh"

namespace fastcells {

template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached,
          Exchange kExchange = Exchange::kCounters>
using ForwardTraits =
    SequenceTraits<T, kTier, cuda::forward_units(Cell::kGates), cuda::forward_tiles(Cell::kGates),
                   1, Cell::kStates, kBatchTiles, kCached, kExchange>;

template <class Cell, class Traits>
class SequenceForward : SequenceProduct<SequenceForwardArgs, SequenceDirection, Traits> {
  using Product = SequenceProduct<SequenceForwardArgs, SequenceDirection, Traits>;
  using typename Product::State, typename Product::Sums, typename Product::T;
  static constexpr int G = Cell::kGates, U = Traits::kGroups, N = Traits::kBatchTiles;
  static constexpr int kHalves = U * G;
  static constexpr bool kGrid = Traits::kGrid;
  using Product::a_, Product::d_, Product::T_, Product::B_, Product::H_;
  using Product::is_ours, Product::is_owner, Product::of_row, Product::row, Product::slices_;
  using Product::unit;

 public:
  FC_DEVICE explicit SequenceForward(const SequenceForwardArgs& args)
      : Product(args, /*first_exchange=*/0) {}

  FC_DEVICE void run() {
    this->load_weights([&](int half, int k) {
      const int u = unit(half / G);
      const bool has = half < kHalves && u < H_;
      const T* const row =
          static_cast<const T*>(d_.weight_hh) + std::int64_t(half % G * H_ + u) * H_;
      return typename Product::Span{row + k, has ? H_ - k : 0};
    });
    load_biases();
    start();
    this->open_exchange();
    if (kGrid) this->take_slice(0);
    begin(0);
    for (int i = 0; i < T_; ++i) {
      for (int q = 0; q < slices_; ++q) run_step(i);
    }
    finish();
    this->close_exchange();
  }

 private:
  FC_DEVICE int step_of(int i) const { return d_.reverse ? T_ - 1 - i : i; }
  template <class F>
  FC_DEVICE void each(const F& f) const {
    Product::each(f);
  }

  // ---- before the first step ----

  FC_DEVICE void load_biases() {
    FC_UNROLL
    for (int g = 0; g < U; ++g) {
      FC_UNROLL
      for (int k = 0; k < G; ++k) {
        const bool has = unit(g) < H_;
        bias_x_[g][k] = d_.bias_ih && has ? d_.bias_ih[k * H_ + unit(g)] : 0.0f;
        bias_h_[g][k] = d_.bias_hh && has ? d_.bias_hh[k * H_ + unit(g)] : 0.0f;
      }
    }
  }
  // The states that enter the first step, in the lanes that own them and in exchange 0.
  FC_DEVICE void start() {
    this->fill_exchange([&](int r, int u) {
      const int b = this->first_row_ + r;
      return b < B_ && !this->cut_initial(b) ? of_row(d_.h_0, b, u) : T(0.0f);
    });
    if (!is_owner()) return;
    this->open_arrays(step_of(0));
    for (int q = 0; q < slices_; ++q) {
      if (kGrid) this->take_slice(q);
      each([&](int n, int g, int e) {
        const int b = row(n, e);
        const bool is_zero = !is_ours(n, g, e) || this->cut_initial(b);
        state_[0][n][g][e] = is_zero ? 0.0f : float(of_row(d_.h_0, b, unit(g)));
        if constexpr (Cell::kStates == 2) {
          state_[1][n][g][e] = is_zero ? 0.0f : float(of_row(d_.c_0, b, unit(g)));
        }
      });
      if (kGrid) send_all(0);
      this->publish();
      this->keep(state_);
    }
  }

  // ---- a step of a slice ----

  FC_DEVICE void run_step(int i) {
    if (kGrid || i > 0) this->wait_for(i, i + 1);
    const bool is_last = i + 1 == T_;
    if (!is_last) this->expect(i + 1);
    Sums sums;
    this->multiply(Traits::kPackets ? i : i & 1, sums);
    if (is_owner()) {
      Results results;
      each([&](int n, int g, int e) { run_cell(n, g, e, sums, results); });
      if (!is_last) {
        send_all(i + 1);
        this->publish();
      }
      // Behind the exchange: what nobody waits for, and then what the next step will need.
      store(results);
      this->keep(state_);
      this->advance_arrays(/*follows=*/!d_.reverse);
    }
    begin(this->pass_turn(i));
  }
  FC_DEVICE void send_all(int exchange) const {
    this->each_pair([&](int n, int g) {
      this->send(exchange, n, /*gate=*/0, g, T(state_[0][n][g][0]), T(state_[0][n][g][1]));
    });
  }

  // What this slice's step i needs that is not exchanged.
  FC_DEVICE void begin(int i) {
    if (!is_owner() || i >= T_) return;
    this->take(state_);
    fetch(step_of(i));
  }
  FC_DEVICE void fetch(int t) {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int b = row(n, e);
        exists_[n][e] = b < B_ && t < this->length(b);
        cut_[n][e] = exists_[n][e] && this->cut_after(t, b);
      }
    }
    const auto x_gates = this->array(d_.x_gates, G * H_);
    each([&](int n, int g, int e) {
      const bool has = exists_[n][e] && unit(g) < H_;
      FC_UNROLL
      for (int k = 0; k < G; ++k) x_[n][g][e][k] = has ? x_gates(n, g, e, k * H_) : 0.0f;
    });
  }

  // Of one step, until they are stored.
  struct Results {
    float h[N][U][2], c[N][U][2], saved[N][U][2][Cell::kSaved];
  };

  FC_DEVICE void run_cell(int n, int g, int e, const Sums& sums, Results& results) {
    float x[G], h[G], state[Cell::kStates], saved[Cell::kSaved];
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const int half = g * G + k;
      x[k] = x_[n][g][e][k] + bias_x_[g][k];
      h[k] = sums[half / 2][n][half % 2 * 2 + e] + bias_h_[g][k];
    }
    FC_UNROLL
    for (int k = 0; k < Cell::kStates; ++k) state[k] = state_[k][n][g][e];
    Cell::forward(x, h, state, saved);
    const bool exists = exists_[n][e], cut = cut_[n][e];
    state[0] = float(T(state[0]));
    if (exists) {
      FC_UNROLL
      for (int k = 0; k < Cell::kStates; ++k) state_[k][n][g][e] = cut ? 0.0f : state[k];
    }
    results.h[n][g][e] = exists ? state[0] : 0.0f;
    if constexpr (Cell::kStates == 2) results.c[n][g][e] = exists ? state[1] : 0.0f;
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) results.saved[n][g][e][k] = exists ? saved[k] : 0.0f;
  }

  FC_DEVICE void store(const Results& results) const {
    const auto output = this->array(static_cast<T*>(d_.output), a_.output_stride);
    const auto cells = this->array(d_.cells, a_.cells_stride);
    const auto saved = this->array(static_cast<T*>(d_.saved), a_.saved_stride);
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      output(n, g, e) = T(results.h[n][g][e]);
      if constexpr (Cell::kStates == 2) {
        if (cells.at) cells(n, g, e) = results.c[n][g][e];
      }
      if (!saved.at) return;
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) {
        saved(n, g, e, k * H_) = T(results.saved[n][g][e][k]);
      }
    });
  }

  FC_DEVICE void finish() {
    if (!is_owner()) return;
    for (int q = 0; q < slices_; ++q) {
      if (kGrid) this->take_slice(q);
      this->take(state_);
      each([&](int n, int g, int e) {
        if (!is_ours(n, g, e)) return;
        const std::int64_t at = std::int64_t(row(n, e)) * H_ + unit(g);
        static_cast<T*>(d_.h_n)[at] = T(state_[0][n][g][e]);
        if constexpr (Cell::kStates == 2) static_cast<T*>(d_.c_n)[at] = T(state_[1][n][g][e]);
      });
    }
  }

  float bias_x_[U][G], bias_h_[U][G];
  // Of the step and slice that come next.
  State state_;
  bool exists_[N][2], cut_[N][2];
  float x_[N][U][2][G];
};

template <class Cell, class Traits>
__global__ void __launch_bounds__(cuda::kMostWarps* cuda::kWarpLanes, 1)
    sequence_forward_kernel(const __grid_constant__ SequenceForwardArgs args) {
  if constexpr (!Traits::kCluster || ptx::kHasClusters) {
    SequenceForward<Cell, Traits>(args).run();
  }
}

}  // namespace fastcells
