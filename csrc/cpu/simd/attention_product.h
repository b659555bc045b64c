// The matrix product of the attention kernels, whose panels lie in larger matrices:
//
//   out[i][j] = sum_k a(i, k) * panel[k][j] + init[i][j]        i < n rows, j < R vectors
//
// The operand a is StridedRows or a ColumnOperand. As in cpu/simd/product.h a tile's accumulators
// stay in registers over all k, and the order of a sum does not depend on the tile.
#pragma once
#include "cpu/simd/lanes.h"
#include "cpu/simd/product.h"

namespace fastcells {
namespace {

// a(i, k) = first[i * stride + k]
template <class S>
struct StridedRows {
  const S* first;
  int64_t stride;
  template <int MR>
  struct Tile {
    const S* row[MR];
    FC_INLINE S at(int i, int64_t k) const { return row[i][k]; }
  };
  template <int MR>
  FC_INLINE Tile<MR> tile() const {
    Tile<MR> tile;
    FC_UNROLL
    for (int m = 0; m < MR; ++m) tile.row[m] = first + m * stride;
    return tile;
  }
  FC_INLINE StridedRows from(int64_t i) const { return {first + i * stride, stride}; }
};

// a(i, k) = first[k * stride + i]
template <class S>
struct StridedColumns {
  const S* first;
  int64_t stride;
  template <int MR>
  struct Tile {
    const S* first;
    int64_t stride;
    FC_INLINE S at(int i, int64_t k) const { return first[k * stride + i]; }
  };
  template <int MR>
  FC_INLINE Tile<MR> tile() const {
    return {first, stride};
  }
  FC_INLINE StridedColumns from(int64_t i) const { return {first + i, stride}; }
};

template <class S>
struct Panel {
  const S* first;
  int64_t stride;  // from k to k + 1
};

// acc[m][v] += a(m, k) * panel[k][v]
template <int MR, int R, class S, class Tile>
FC_INLINE void accumulate_row(const Tile& a, int64_t k, const S* panel, Vector<S> (&acc)[MR][R]) {
  using V = Vector<S>;
  V w[R];
  FC_UNROLL
  for (int v = 0; v < R; ++v) w[v] = V::load(panel + v * V::kLanes);
  FC_UNROLL
  for (int m = 0; m < MR; ++m) {
    const V x(a.at(m, k));
    FC_UNROLL
    for (int v = 0; v < R; ++v) multiply_add(acc[m][v], x, w[v]);
  }
}

// The operand begins with the tile's first row.
template <int MR, int R, class S, class Operand>
__attribute__((noinline)) void panel_tile(Operand operand, int64_t K, const S* panel,
                                          int64_t stride, const S* init, S* out,
                                          int64_t out_stride) {
  using V = Vector<S>;
  constexpr int L = V::kLanes;
  const auto a = operand.template tile<MR>();
  V acc[MR][R];
  FC_UNROLL
  for (int m = 0; m < MR; ++m) {
    FC_UNROLL
    for (int v = 0; v < R; ++v) acc[m][v] = V(S(0));
  }
  int64_t k = 0;
  for (; k + 2 <= K; k += 2, panel += 2 * stride) {
    accumulate_row(a, k, panel, acc);
    accumulate_row(a, k + 1, panel + stride, acc);
  }
  if (k < K) accumulate_row(a, k, panel, acc);
  FC_UNROLL
  for (int m = 0; m < MR; ++m) {
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      V sum = acc[m][v];
      if (init) sum = sum + V::load(init + m * out_stride + v * L);
      sum.store(out + m * out_stride + v * L);
    }
  }
}

template <int MR, int R, class S, class Operand>
FC_INLINE void panel_tile_at_most(int rows, const Operand& a, int64_t i, int64_t K, Panel<S> panel,
                                  const S* init, S* out, int64_t out_stride) {
  if (rows == MR) {
    panel_tile<MR, R>(a.from(i), K, panel.first, panel.stride, init, out, out_stride);
  } else if constexpr (MR > 1) {
    panel_tile_at_most<MR - 1, R>(rows, a, i, K, panel, init, out, out_stride);
  }
}

// Whether a product starts from zero or from what `out` holds.
enum class Start { kZero, kOut };

// All n rows, in tiles of nearly the same size.
template <int R, class S, class Operand>
inline void panel_product(int64_t n, Operand a, int64_t K, Panel<S> panel, Start start, S* out,
                          int64_t out_stride) {
  constexpr int MR = kTileRows<S, R>;
  if (n <= 0) return;
  const int64_t tiles = divide_up(n, MR), least = n / tiles, longer = n % tiles;
  int64_t i = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int m = int(least + (tile < longer ? 1 : 0));
    S* const rows = out + i * out_stride;
    panel_tile_at_most<MR, R>(m, a, i, K, panel, start == Start::kOut ? rows : nullptr, rows,
                              out_stride);
    i += m;
  }
}

}  // namespace
}  // namespace fastcells
