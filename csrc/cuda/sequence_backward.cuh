// A layer back through all its steps in one kernel: W_hh stays on the chip, the gates' gradients go
// from block to block.
//
//   grid and blocks as on the way forward (sequence_forward.cuh), but a warp owns 16 units. Every
//   step, the last one first, per warp:
//
//     d_state = carry + W_hh^T dg of the step visited before + what the outputs bring
//     cell, backward        a lane holds two units and two rows
//     dg to every block     st.async into one of two buffers, counted by an mbarrier
//     wait                  for the bytes of all blocks
//     W_hh^T dg             mma.m16n8k16: own units are M, batch rows N, all gates of all units K
//
// Nothing that the forward pass saved is written to. dW, db and d_input are large products of
// dx_gates and dg_gates after the kernel. The two buffers are safe by the argument made there.
#pragma once
#include "cells/cells.h"
#include "cuda/plan.h"
#include "cuda/sequence_args.h"
#include "cuda/sequence_block.cuh"

namespace fastcells {

template <class Cell, class T, int kBatchTiles, int kCached, bool kCluster>
class SequenceBackward
    : SequenceBlock<SequenceBackwardArgs, SequenceBackwardDirection, T, cuda::kBackwardUnits, 1,
                    Cell::kGates, kBatchTiles, kCached, kCluster> {
  using Block =
      SequenceBlock<SequenceBackwardArgs, SequenceBackwardDirection, T, cuda::kBackwardUnits, 1,
                    Cell::kGates, kBatchTiles, kCached, kCluster>;
  static constexpr int G = Cell::kGates, N = kBatchTiles, U = 2;  // groups of eight units of a warp
  using Block::a_, Block::columns_, Block::d_, Block::first_unit_, Block::is_ours, Block::lane_;
  using Block::of_row, Block::row, Block::rows_, Block::unit, Block::units_, Block::weights_;

 public:
  FC_DEVICE explicit SequenceBackward(const SequenceBackwardArgs& args) : Block(args) {}

  FC_DEVICE void run() {
    load_weights();
    start();
    this->open_exchange();
    float sums[N][4] = {};
    for (std::int64_t j = 0; j < a_.T; ++j) run_step(j, sums);
    finish(sums);
    this->close_exchange();
  }

 private:
  template <class F>
  FC_DEVICE static void each(const F& f) {
    Block::template for_each<U>(f);
  }

  // ---- before the first step ----

  FC_DEVICE void load_weights() {
    FC_UNROLL
    for (int s = 0; s < kCached; ++s) cached_[s] = fragment(s);
    for (int s = kCached; s < columns_ / kStepK; ++s) {
      weights_[(s - kCached) * kWarpLanes + lane_] = fragment(s);
    }
  }
  // This lane's part of W_hh^T over columns 16 s .. 16 s + 15; zero past the edges. A column is
  // gate by gate the units of the cluster.
  FC_DEVICE uint4 fragment(int s) const {
    const int k = s * kStepK + lane_ % 4 * 2;
    return {pair(0, k), pair(1, k), pair(0, k + 8), pair(1, k + 8)};
  }
  FC_DEVICE unsigned pair(int g, int k) const { return element(g, k) | element(g, k + 1) << 16; }
  FC_DEVICE unsigned element(int g, int k) const {
    const std::int64_t from = k % units_, to = unit(g);
    if (from >= a_.H || to >= a_.H) return 0;
    return bits_of(static_cast<const T*>(d_.weight_hh)[(k / units_ * a_.H + from) * a_.H + to]);
  }

  FC_DEVICE void start() {
    each([&](int n, int g, int e) {
      const bool ours = is_ours(n, g, e);
      length_[n][e] = row(n, e) < a_.B ? rows_.length(row(n, e)) : 0;
      dh_[n][g][e] = ours ? of_row(d_.d_h_n, row(n, e), unit(g)) : 0.0f;
      if (Cell::kStates == 2) dc_[n][g][e] = ours ? of_row(d_.d_c_n, row(n, e), unit(g)) : 0.0f;
    });
  }

  // ---- a step ----

  FC_DEVICE void run_step(std::int64_t j, float (&sums)[N][4]) {
    const std::int64_t i = a_.T - 1 - j, t = d_.reverse ? a_.T - 1 - i : i;
    const int now = int(j & 1);
    this->expect(now);
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int g = 0; g < U; ++g) {
        float dx[2][G], dg[2][G];
        FC_UNROLL
        for (int e = 0; e < 2; ++e) run_cell(t, n, g, e, sums[n][g * 2 + e], dx[e], dg[e]);
        FC_UNROLL
        for (int k = 0; k < G; ++k) {
          this->send(now, n, k * units_ + first_unit_ + g * kGroupUnits, T(dg[0][k]), T(dg[1][k]));
        }
        FC_UNROLL
        for (int e = 0; e < 2; ++e) store_gates(t, n, g, e, dx[e], dg[e]);
      }
    }
    this->wait_for(now, j >> 1);
    multiply(this->buffer(now), sums);
  }

  FC_DEVICE void run_cell(std::int64_t t, int n, int g, int e, float product, float (&dx)[G],
                          float (&dg)[G]) {
    float& dh = dh_[n][g][e];
    dh += product;  // of the step visited before
    FC_UNROLL
    for (int k = 0; k < G; ++k) dx[k] = dg[k] = 0.0f;
    if (!is_ours(n, g, e) || t >= length_[n][e]) return;
    const std::int64_t b = row(n, e), u = unit(g), at = t * a_.B + b;
    const bool cut = rows_.cut_after(t, b);
    float saved[Cell::kSaved], prev[Cell::kStates], next[Cell::kStates], d_state[Cell::kStates];
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] = float(static_cast<const T*>(d_.saved)[at * a_.saved_stride + k * a_.H + u]);
    }
    d_state[0] = cut ? 0.0f : dh;
    if (d_.d_output) {
      d_state[0] += float(static_cast<const T*>(d_.d_output)[at * a_.output_stride + u]);
    }
    prev[0] = entering(t, b, u, static_cast<const T*>(d_.output), a_.output_stride, d_.h_0);
    next[0] = 0.0f;
    if constexpr (Cell::kStates == 2) {
      d_state[1] = cut ? 0.0f : dc_[n][g][e];
      if (d_.d_cells) d_state[1] += d_.d_cells[at * a_.cells_stride + u];
      prev[1] = entering(t, b, u, d_.cells, a_.cells_stride, d_.c_0);
      next[1] = d_.cells[at * a_.cells_stride + u];
    }
    Cell::backward(saved, prev, next, d_state, dx, dg);
    dh = d_state[0];
    if constexpr (Cell::kStates == 2) dc_[n][g][e] = d_state[1];
  }
  // The state that entered step t of row b.
  template <class Stored>
  FC_DEVICE float entering(std::int64_t t, std::int64_t b, std::int64_t u, const Stored* all,
                           std::int64_t stride, const void* initial) const {
    if (rows_.is_first(t, b)) return rows_.cut_initial(b) ? 0.0f : of_row(initial, b, u);
    const std::int64_t previous = rows_.previous(t);
    return rows_.cut_after(previous, b) ? 0.0f : float(all[(previous * a_.B + b) * stride + u]);
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

  FC_DEVICE void multiply(ptx::Shared<std::uint16_t> dg, float (&sums)[N][4]) const {
    const auto own = dg + (lane_ % 8) * (columns_ + kRowPadding) + lane_ / 8 * 8;
    float parts[2][N][4] = {};  // two chains of sums
    FC_UNROLL
    for (int s = 0; s < kCached; s += 2) {
      if (s * kStepK >= columns_) break;
      multiply_pair(own, s, cached_[s], cached_[s + 1], parts);
    }
    for (int s = kCached; s < columns_ / kStepK; s += 2) {
      multiply_pair(own, s, weights_[(s - kCached) * kWarpLanes + lane_],
                    weights_[(s + 1 - kCached) * kWarpLanes + lane_], parts);
    }
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int i = 0; i < 4; ++i) sums[n][i] = parts[0][n][i] + parts[1][n][i];
    }
  }
  FC_DEVICE void multiply_pair(ptx::Shared<std::uint16_t> own, int s, uint4 a_0, uint4 a_1,
                               float (&parts)[2][N][4]) const {
    const unsigned first[4] = {a_0.x, a_0.y, a_0.z, a_0.w};
    const unsigned second[4] = {a_1.x, a_1.y, a_1.z, a_1.w};
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      unsigned b[4];
      ptx::load_matrices(b, own + n * kTileRows * (columns_ + kRowPadding) + s * kStepK);
      const unsigned b_first[2] = {b[0], b[1]}, b_second[2] = {b[2], b[3]};
      ptx::mma_m16n8k16<T>(parts[0][n], first, b_first);
      ptx::mma_m16n8k16<T>(parts[1][n], second, b_second);
    }
  }

  FC_DEVICE void finish(const float (&sums)[N][4]) const {
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      const bool cut = rows_.cut_initial(row(n, e));
      const std::int64_t at = row(n, e) * a_.H + unit(g);
      d_.d_h_0[at] = cut ? 0.0f : dh_[n][g][e] + sums[n][g * 2 + e];
      if constexpr (Cell::kStates == 2) d_.d_c_0[at] = cut ? 0.0f : dc_[n][g][e];
    });
  }

  uint4 cached_[kCached > 0 ? kCached : 1];
  std::int64_t length_[N][2];
  float dh_[N][U][2], dc_[N][U][2];
};

template <class Cell, class T, int kBatchTiles, int kCached, bool kCluster>
__global__ void __launch_bounds__(256, 1)
    sequence_backward_kernel(const __grid_constant__ SequenceBackwardArgs args) {
  if constexpr (!kCluster || ptx::kHasClusters) {
    SequenceBackward<Cell, T, kBatchTiles, kCached, kCluster>(args).run();
  }
}

}  // namespace fastcells
