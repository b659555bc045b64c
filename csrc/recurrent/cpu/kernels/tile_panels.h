// Panels of narrow weights whose products with many rows run on tiles (cpu/simd/tile_product.h):
//
//   PairTiles         bfloat16 in pairs of k                         rows rounded to bfloat16
//   QuadTiles         int8 in fours of k; a scale for each column    rows as bytes, a scale each
//
// They are PairPanels and QuadPanels (panels.h) of whole tiles, zeros past the last k. The rows of
// a product lie one after another, row_length(K) elements apart: the first alone is looked up.
#pragma once
#include "cpu/simd/tile_product.h"
#include "recurrent/cpu/kernels/panels.h"

namespace fastcells {
namespace {

// So few rows are multiplied on vectors, as they would leave a tile mostly empty. Not measured.
constexpr int64_t kFewTileRows = 4;
// Of products on tiles to those on vectors, for the plan: a sketch of the recurrent product alone
// reached ten times float32's rate on a Sapphire Rapids.
constexpr int kTileSpeed = 5;

template <class E>
struct FewRows {
  const E* row[kFewTileRows];
  FC_INLINE FewRows(int64_t n, const E* first, int64_t length) {
    for (int64_t i = 0; i < n; ++i) row[i] = first + i * length;
  }
};

struct PairTiles : PairPanelsIn<kMostTileRows> {
  using Base = PairPanelsIn<kMostTileRows>;
  static constexpr bool kOnTiles = true;
  static constexpr int kSpeed = kTileSpeed;
  static FC_INLINE void release() { release_tiles(); }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<Row> rows, int64_t K, const void* panel,
                                 const float* init, int64_t init_stride, float* out,
                                 int64_t out_stride, const void* next) {
    using V = Vector<float>;
    if (n <= 0) return;
    const Row* const first = rows.row[0];
    if (n <= kFewTileRows) {
      const FewRows<Row> few(n, first, row_length(K));
      return Base::multiply<R>(n, {few.row}, K, panel, init, init_stride, out, out_stride, next);
    }
    tile_product<R>(n, first, row_length(K), static_cast<const Row*>(panel),
                    [&](int64_t i, int v, V sum) {
                      const int64_t j = v * V::kLanes;
                      // Added last, as in product.h.
                      if (init) sum = sum + load(init + i * init_stride + j);
                      store(out + i * out_stride + j, sum);
                    });
  }
};

struct QuadTiles : QuadPanelsIn<kMostTileRows> {
  using Base = QuadPanelsIn<kMostTileRows>;
  static constexpr bool kOnTiles = true;
  static constexpr int kSpeed = kTileSpeed;
  static FC_INLINE void release() { release_tiles(); }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<Row> rows, int64_t K, const void* panel,
                                 const float* init, int64_t init_stride, float* out,
                                 int64_t out_stride, const void* next) {
    if (n <= 0) return;
    const Row* const first = rows.row[0];
    if (n <= kFewTileRows) {
      const FewRows<Row> few(n, first, row_length(K));
      return Base::multiply<R>(n, {few.row, rows.scale, rows.least}, K, panel, init, init_stride,
                               out, out_stride, next);
    }
    start_sums<R>(n, rows, panel, init, init_stride, out, out_stride);
    // As on vectors, so that a row's bits do not depend on how many there are.
    const float* const scales = static_cast<const float*>(panel);
    tile_product<R>(n, first, row_length(K), quads<R>(panel), [&](int64_t i, int v, Counts sum) {
      const int64_t j = v * Vector<float>::kLanes;
      float* const to = out + i * out_stride + j;
      store(to, QuantizedOperand::scaled(sum, rows.scale[i], scales + j) + load(to));
    });
  }
};

}  // namespace
}  // namespace fastcells
