// A layer through all its steps in one kernel: W_hh stays on the chip, h goes from block to block.
//
//   grid (blocks of a cluster x slices of the batch, directions); a cluster takes 8*kBatchTiles
//   rows. A block owns the units of its warps, all gates of each. Every step, per warp:
//
//     g = W_hh h            mma.m16n8k16: gates and units are M, batch rows N, all units K
//     cell                  on the accumulators: a lane holds all gates of a unit and two rows
//     h to every block      st.async into the other of two buffers, counted by an mbarrier
//     wait                  for the bytes of all blocks: no barrier of the cluster in the loop
//
// Why the other buffer may be written: whoever sends h of step i has the h of step i - 1 of every
// block, and a warp sends that after it has read the buffer in question for the last time.
//
// Rows of an m16 tile are two halves of eight: half j of a warp is gate j % G of unit group j / G,
// so that rows r and r + 8 of an accumulator are two gates of one unit, or one gate of two groups.
// W_hh lies in the order of its fragments: up to kCached steps over K in registers, the rest in
// shared memory, 16 bytes a lane.
#pragma once
#include "cells/cells.h"
#include "cuda/plan.h"
#include "cuda/ptx.cuh"
#include "cuda/sequence_args.h"
#include "cuda/sequence_block.cuh"

namespace fastcells {

template <class Cell>
struct SequenceTile {
  static constexpr int kUnits = cuda::forward_units(Cell::kGates);
  static constexpr int kTiles = cuda::forward_tiles(Cell::kGates);
  static constexpr int kGroups = kUnits / kGroupUnits;
  static constexpr int kHalves = kGroups * Cell::kGates;
};

template <class Cell, class T, int kBatchTiles, int kCached, bool kCluster>
class SequenceForward
    : SequenceBlock<SequenceForwardArgs, SequenceDirection, T, SequenceTile<Cell>::kUnits,
                    SequenceTile<Cell>::kTiles, 1, kBatchTiles, kCached, kCluster> {
  using Tile = SequenceTile<Cell>;
  using Block = SequenceBlock<SequenceForwardArgs, SequenceDirection, T, Tile::kUnits, Tile::kTiles,
                              1, kBatchTiles, kCached, kCluster>;
  static constexpr int G = Cell::kGates, M = Tile::kTiles, U = Tile::kGroups, N = kBatchTiles;
  using Block::a_, Block::columns_, Block::d_, Block::first_row_, Block::first_unit_, Block::lane_;
  using Block::is_ours, Block::of_row, Block::row, Block::rows_, Block::unit, Block::weights_;

 public:
  FC_DEVICE explicit SequenceForward(const SequenceForwardArgs& args) : Block(args) {}

  FC_DEVICE void run() {
    load_weights();
    start();
    this->open_exchange();
    fetch(step_of(0));
    for (std::int64_t i = 0; i < a_.T; ++i) run_step(i);
    finish();
    this->close_exchange();
  }

 private:
  FC_DEVICE std::int64_t step_of(std::int64_t i) const { return d_.reverse ? a_.T - 1 - i : i; }
  template <class F>
  FC_DEVICE static void each(const F& f) {
    Block::template for_each<U>(f);
  }

  // ---- before the first step ----

  FC_DEVICE void load_weights() {
    FC_UNROLL
    for (int s = 0; s < kCached; ++s) {
      FC_UNROLL
      for (int m = 0; m < M; ++m) cached_[s][m] = fragment(s, m);
    }
    for (int s = kCached; s < columns_ / kStepK; ++s) {
      for (int m = 0; m < M; ++m)
        weights_[((s - kCached) * M + m) * kWarpLanes + lane_] = fragment(s, m);
    }
  }
  // This lane's part of tile m of W_hh over K = 16 s .. 16 s + 15; zero past the edges.
  FC_DEVICE uint4 fragment(int s, int m) const {
    const int k = s * kStepK + lane_ % 4 * 2;
    return {pair(2 * m, k), pair(2 * m + 1, k), pair(2 * m, k + 8), pair(2 * m + 1, k + 8)};
  }
  FC_DEVICE unsigned pair(int half, int k) const {
    const std::int64_t u = unit(half / G);
    if (half >= Tile::kHalves || u >= a_.H) return 0;
    const T* const w = static_cast<const T*>(d_.weight_hh) + ((half % G) * a_.H + u) * a_.H + k;
    return (k < a_.H ? bits_of(w[0]) : 0u) | (k + 1 < a_.H ? bits_of(w[1]) << 16 : 0u);
  }

  FC_DEVICE void start() {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const std::int64_t b = row(n, e);
        length_[n][e] = b < a_.B ? rows_.length(b) : 0;
        const bool cut = b < a_.B && rows_.cut_initial(b);
        FC_UNROLL
        for (int g = 0; g < U; ++g) {
          const bool is_zero = !is_ours(n, g, e) || cut;
          h_state_[n][g][e] = is_zero ? 0.0f : of_row(d_.h_0, b, unit(g));
          if (Cell::kStates == 2) c_state_[n][g][e] = is_zero ? 0.0f : of_row(d_.c_0, b, unit(g));
        }
      }
    }
    FC_UNROLL
    for (int g = 0; g < U; ++g) {
      FC_UNROLL
      for (int k = 0; k < G; ++k) {
        const bool has = unit(g) < a_.H;
        bias_x_[g][k] = d_.bias_ih && has ? d_.bias_ih[k * a_.H + unit(g)] : 0.0f;
        bias_h_[g][k] = d_.bias_hh && has ? d_.bias_hh[k * a_.H + unit(g)] : 0.0f;
      }
    }
    // All units of the cluster's rows, as every block needs them.
    for (int i = int(threadIdx.x); i < N * kTileRows * columns_; i += int(blockDim.x)) {
      const int r = i / columns_, u = i % columns_;
      const std::int64_t b = first_row_ + r;
      const bool has = b < a_.B && u < a_.H && !rows_.cut_initial(b);
      this->buffer(0)[r * (columns_ + kRowPadding) + u] =
          std::uint16_t(bits_of(T(has ? of_row(d_.h_0, b, u) : 0.0f)));
    }
  }

  // ---- a step ----

  // What step t reads from memory, asked for a step ahead.
  FC_DEVICE void fetch(std::int64_t t) {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const std::int64_t b = row(n, e);
        const bool exists = b < a_.B && t < length_[n][e];
        cut_[n][e] = exists && rows_.cut_after(t, b);
        FC_UNROLL
        for (int g = 0; g < U; ++g) {
          FC_UNROLL
          for (int k = 0; k < G; ++k) {
            const bool has = exists && unit(g) < a_.H;
            x_[n][g][e][k] = has ? d_.x_gates[((t * a_.B + b) * G + k) * a_.H + unit(g)] : 0.0f;
          }
        }
      }
    }
  }

  FC_DEVICE void run_step(std::int64_t i) {
    const std::int64_t t = step_of(i);
    const int now = int(i & 1), next = 1 - now;
    this->expect(next);
    float sums[M][N][4] = {};
    multiply(this->buffer(now), sums);
    Results results;
    each([&](int n, int g, int e) { run_cell(t, n, g, e, sums, results); });
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int g = 0; g < U; ++g) {
        this->send(next, n, first_unit_ + g * kGroupUnits, T(h_state_[n][g][0]),
                   T(h_state_[n][g][1]));
      }
    }
    // Behind the exchange: what nobody waits for, and what the next step will need.
    store(t, results);
    if (i + 1 < a_.T) fetch(step_of(i + 1));
    this->wait_for(next, i >> 1);
  }

  FC_DEVICE void multiply(ptx::Shared<std::uint16_t> h, float (&sums)[M][N][4]) const {
    // Matrix l / 8 of a lane's address: the first or second half of one of two steps over K.
    const auto own = h + (lane_ % 8) * (columns_ + kRowPadding) + lane_ / 8 * 8;
    FC_UNROLL
    for (int s = 0; s < kCached; s += 2) {
      if (s * kStepK >= columns_) break;
      multiply_pair(own, s, cached_[s], cached_[s + 1], sums);
    }
    for (int s = kCached; s < columns_ / kStepK; s += 2) {
      uint4 a[2][M];
      FC_UNROLL
      for (int m = 0; m < M; ++m) {
        a[0][m] = weights_[((s - kCached) * M + m) * kWarpLanes + lane_];
        a[1][m] = weights_[((s + 1 - kCached) * M + m) * kWarpLanes + lane_];
      }
      multiply_pair(own, s, a[0], a[1], sums);
    }
  }
  // Steps s and s + 1 over K.
  FC_DEVICE void multiply_pair(ptx::Shared<std::uint16_t> own, int s, const uint4 (&first)[M],
                               const uint4 (&second)[M], float (&sums)[M][N][4]) const {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      unsigned b[4];
      ptx::load_matrices(b, own + n * kTileRows * (columns_ + kRowPadding) + s * kStepK);
      FC_UNROLL
      for (int m = 0; m < M; ++m) {
        multiply_tile(sums[m][n], first[m], b[0], b[1]);
        multiply_tile(sums[m][n], second[m], b[2], b[3]);
      }
    }
  }
  FC_DEVICE static void multiply_tile(float (&sums)[4], const uint4& a, unsigned b_0,
                                      unsigned b_1) {
    const unsigned fragment_a[4] = {a.x, a.y, a.z, a.w}, fragment_b[2] = {b_0, b_1};
    ptx::mma_m16n8k16<T>(sums, fragment_a, fragment_b);
  }

  // Of one step, until they are stored.
  struct Results {
    float h[N][U][2], c[N][U][2], saved[N][U][2][Cell::kSaved];
  };

  FC_DEVICE void run_cell(std::int64_t t, int n, int g, int e, const float (&sums)[M][N][4],
                          Results& results) {
    float x[G], h[G], state[Cell::kStates], saved[Cell::kSaved];
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const int half = g * G + k;
      x[k] = x_[n][g][e][k] + bias_x_[g][k];
      h[k] = sums[half / 2][n][half % 2 * 2 + e] + bias_h_[g][k];
    }
    state[0] = h_state_[n][g][e];
    if constexpr (Cell::kStates == 2) state[1] = c_state_[n][g][e];
    Cell::forward(x, h, state, saved);
    const bool exists = t < length_[n][e], cut = cut_[n][e];
    const float rounded = float(T(state[0]));
    results.h[n][g][e] = exists ? rounded : 0.0f;
    if (exists) h_state_[n][g][e] = cut ? 0.0f : rounded;
    if constexpr (Cell::kStates == 2) {
      results.c[n][g][e] = exists ? state[1] : 0.0f;
      if (exists) c_state_[n][g][e] = cut ? 0.0f : state[1];
    }
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) results.saved[n][g][e][k] = exists ? saved[k] : 0.0f;
  }

  FC_DEVICE void store(std::int64_t t, const Results& results) const {
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      const std::int64_t at = t * a_.B + row(n, e), u = unit(g);
      static_cast<T*>(d_.output)[at * a_.output_stride + u] = T(results.h[n][g][e]);
      if constexpr (Cell::kStates == 2) {
        if (d_.cells) d_.cells[at * a_.cells_stride + u] = results.c[n][g][e];
      }
      if (!d_.saved) return;
      T* const saved = static_cast<T*>(d_.saved) + at * a_.saved_stride + u;
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) saved[k * a_.H] = T(results.saved[n][g][e][k]);
    });
  }

  FC_DEVICE void finish() const {
    each([&](int n, int g, int e) {
      if (!is_ours(n, g, e)) return;
      const std::int64_t at = row(n, e) * a_.H + unit(g);
      static_cast<T*>(d_.h_n)[at] = T(h_state_[n][g][e]);
      if constexpr (Cell::kStates == 2) static_cast<T*>(d_.c_n)[at] = T(c_state_[n][g][e]);
    });
  }

  uint4 cached_[kCached > 0 ? kCached : 1][M];
  std::int64_t length_[N][2];
  bool cut_[N][2];
  float x_[N][U][2][G], bias_x_[U][G], bias_h_[U][G];
  float h_state_[N][U][2], c_state_[N][U][2];
};

template <class Cell, class T, int kBatchTiles, int kCached, bool kCluster>
__global__ void __launch_bounds__(256, 1)
    sequence_forward_kernel(const __grid_constant__ SequenceForwardArgs args) {
  if constexpr (!kCluster || ptx::kHasClusters) {
    SequenceForward<Cell, T, kBatchTiles, kCached, kCluster>(args).run();
  }
}

}  // namespace fastcells
