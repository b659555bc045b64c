// The one matrix product of the CPU engine: rows of A times a panel of packed weights.
//
//   out[i][j] = sum_k a[i][k] * panel[k][j] + init[i][j]         i < n rows, j < R vectors
//
// A panel is [k][R][lanes], one after another in memory, or R vectors of each row k of a matrix as
// it lies; an operand of A is broadcast. A tile of MR rows keeps MR*R accumulators in registers
// over all k: with 16 registers (AVX2) 3x4, 4x3, 6x2, with 32 (AVX512) 6x4, 8x3, 12x2. The order of
// a sum over k depends on the tile.
#pragma once
#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

// Rows of a tile whose panel is R vectors wide.
template <int R>
constexpr int kTileRows = (kRegisters == 32 ? 24 : 12) / R;

// Bytes of a panel that stay in the first-level cache while the rows pass over it.
constexpr std::int64_t kPanelBytes = 16 * 1024;

template <class S, int R>
constexpr std::int64_t kPanelSteps = kPanelBytes / (R * kVectorBytes);

constexpr int kUnroll = 4;
// Lines of the next piece that a tile calls for every kUnroll steps: some tiles bring all of it
// into the second-level cache, where else the first of them would wait for memory.
constexpr int kAheadLines = kVectorBytes == 64 ? 2 : 1, kLine = 64;

// A as rows anywhere in memory: a[i][k] is row[i][k].
template <class S>
struct RowOperand {
  const S* const* row;
  template <int MR>
  struct Tile {
    const S* row[MR];
    FC_INLINE S at(int i, std::int64_t k) const { return row[i][k]; }
  };
  template <int MR>
  FC_INLINE Tile<MR> tile(std::int64_t i, std::int64_t k) const {
    Tile<MR> tile;
    FC_UNROLL
    for (int m = 0; m < MR; ++m) tile.row[m] = row[i + m] + k;
    return tile;
  }
};

// A as the columns of a matrix: a[i][k] is first[k * stride + i].
template <class S>
struct ColumnOperand {
  const S* first;
  std::int64_t stride;
  template <int MR>
  using Tile = ColumnOperand;
  template <int MR>
  FC_INLINE ColumnOperand tile(std::int64_t i, std::int64_t k) const {
    return {first + k * stride + i, stride};
  }
  FC_INLINE S at(int i, std::int64_t k) const { return first[k * stride + i]; }
};

// A panel [k][R][lanes], packed.
template <class S, int R>
struct PackedPanel {
  const S* first;
  FC_INLINE const S* at(std::int64_t k) const { return first + k * R * Vector<S>::kLanes; }
};
// A panel whose rows lie `stride` apart.
template <class S, int R>
struct StridedPanel {
  const S* first;
  std::int64_t stride;
  FC_INLINE const S* at(std::int64_t k) const { return first + k * stride; }
};

// acc[i][v] += a[i][k] * panel[k][v]. Accumulators, the shorter side and one operand of the other
// just fit the registers.
template <int MR, int R, class S, class Tile>
FC_INLINE void accumulate(const Tile& a, std::int64_t k, const S* panel, Vector<S> (&acc)[MR][R]) {
  using V = Vector<S>;
  if constexpr (MR <= R) {
    V x[MR];
    FC_UNROLL
    for (int i = 0; i < MR; ++i) x[i] = V(a.at(i, k));
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      const V w = V::load(panel + v * V::kLanes);
      FC_UNROLL
      for (int i = 0; i < MR; ++i) multiply_add(acc[i][v], x[i], w);
    }
  } else {
    V w[R];
    FC_UNROLL
    for (int v = 0; v < R; ++v) w[v] = V::load(panel + v * V::kLanes);
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      const V x(a.at(i, k));
      FC_UNROLL
      for (int v = 0; v < R; ++v) multiply_add(acc[i][v], x, w[v]);
    }
  }
}

// Rows i .. i + MR - 1, over k .. k + K - 1; panel, init and out begin there. On the way some lines
// from `ahead` on are called for.
template <int MR, int R, class S, class Operand, class Panel>
__attribute__((noinline)) void product_tile(Operand a, std::int64_t i, std::int64_t k,
                                            std::int64_t K, Panel panel, const S* init,
                                            std::int64_t init_stride, S* out,
                                            std::int64_t out_stride, const char* ahead) {
  using V = Vector<S>;
  constexpr int L = V::kLanes;
  // An accumulator waits 4 cycles for its last sum, and two can start a cycle: 8 must be under way.
  constexpr int kChains = MR * R >= 8 ? 1 : MR * R >= 3 ? 2 : 4;
  V acc[kChains][MR][R];
  FC_UNROLL
  for (int c = 0; c < kChains; ++c) {
    FC_UNROLL
    for (int m = 0; m < MR; ++m) {
      FC_UNROLL
      for (int v = 0; v < R; ++v) acc[c][m][v] = V(S(0));
    }
  }
  const auto tile = a.template tile<MR>(i, k);
  std::int64_t step = 0;
  for (; step + kUnroll <= K; step += kUnroll) {
    FC_UNROLL
    for (int c = 0; c < kUnroll; ++c)
      accumulate(tile, step + c, panel.at(step + c), acc[c % kChains]);
    FC_UNROLL
    for (int c = 0; c < kAheadLines; ++c, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
  }
  for (; step < K; ++step) accumulate(tile, step, panel.at(step), acc[0]);
  FC_UNROLL
  for (int m = 0; m < MR; ++m) {
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      V sum = acc[0][m][v];
      FC_UNROLL
      for (int c = 1; c < kChains; ++c) sum = sum + acc[c][m][v];
      // Added last: a large bias would round every sum on the way.
      if (init) sum = sum + V::load(init + m * init_stride + v * L);
      sum.store(out + m * out_stride + v * L);
    }
  }
}

template <int MR, int R, class S, class Operand, class Panel>
FC_INLINE void product_tile_at_most(int rows, const Operand& a, std::int64_t i, std::int64_t k,
                                    std::int64_t K, const Panel& panel, const S* init,
                                    std::int64_t init_stride, S* out, std::int64_t out_stride,
                                    const char* ahead) {
  if (rows == MR) {
    product_tile<MR, R>(a, i, k, K, panel, init, init_stride, out, out_stride, ahead);
  } else if constexpr (MR > 1) {
    product_tile_at_most<MR - 1, R>(rows, a, i, k, K, panel, init, init_stride, out, out_stride,
                                    ahead);
  }
}

// All n rows of A, a RowOperand or a ColumnOperand, times a PackedPanel or a StridedPanel. `init`:
// one row for all ([R*L], init_stride 0), a row each, or nullptr for zeros; it may be `out` itself.
// With many rows the panel is taken in pieces that stay in the cache. `next` is what will be wanted
// after this panel: as a rule what lies behind it.
template <int R, class S, class Operand, class Panel>
inline void product_of(std::int64_t n, Operand a, std::int64_t K, Panel panel, const S* init,
                       std::int64_t init_stride, S* out, std::int64_t out_stride, const S* next) {
  constexpr int MR = kTileRows<R>;
  if (n <= 0) return;
  const std::int64_t tiles = (n + MR - 1) / MR, least = n / tiles, longer = n % tiles;
  const std::int64_t piece = tiles > 2 || K == 0 ? kPanelSteps<S, R> : K;
  for (std::int64_t k = 0; k == 0 || k < K; k += piece) {
    const std::int64_t steps = K - k < piece ? K - k : piece;
    if (k > 0) init = out, init_stride = out_stride;
    Panel from = panel;
    from.first = panel.at(k);
    const S* const following = k + steps < K ? panel.at(k + steps) : next;
    const char* ahead = reinterpret_cast<const char*>(following);
    std::int64_t i = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const int m = int(least + (tile < longer ? 1 : 0));
      product_tile_at_most<MR, R>(m, a, i, k, steps, from, init ? init + i * init_stride : nullptr,
                                  init_stride, out + i * out_stride, out_stride, ahead);
      i += m, ahead += steps / kUnroll * kAheadLines * kLine;
    }
  }
}
template <int R, class S, class Operand>
inline void product(std::int64_t n, Operand a, std::int64_t K, const S* panel, const S* init,
                    std::int64_t init_stride, S* out, std::int64_t out_stride,
                    const S* next = nullptr) {
  const PackedPanel<S, R> packed{panel};
  product_of<R>(n, a, K, packed, init, init_stride, out, out_stride, next ? next : packed.at(K));
}

}  // namespace
}  // namespace fastcells
