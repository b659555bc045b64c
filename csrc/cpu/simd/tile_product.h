// The matrix product of many rows on tiles (AMX): rows of A times a panel of packed elements.
//
//   sums[i][j] = sum_k a[i][k] * panel[k][j]         i < n rows, j < R vectors of 16 columns
//
// An element is a pair or a four of narrow numbers (product.h), a row of A one line after another,
// a tile 16 of them. The panel is product.h's, [k][R][16], and has whole tiles: 16 steps of it and
// 16 columns. A's rows lie one after another and are as long.
//
// All tiles of rows are equally high, so that one configuration does for a product, and mostly for
// the next: to load one takes as long as a dozen products of tiles. The last tile ends with the
// last row and so may begin within the one before: no row past the end is read.
//
// A product of tiles starts every 16 cycles and takes 52: four sums are under way.
//
//   tiles 0 .. 3   sums          4, 5   rows          6, 7   the panel
//
// Included behind a struct Tiles: amx.h's, or a test's that does the same in plain C++.
#pragma once
#include "cpu/simd/lanes.h"
#include "cpu/simd/product.h"
#include "cpu/simd/tile_configuration.h"

namespace fastcells {
namespace {

#define FC_INLINE_BODY __attribute__((always_inline))  // of a lambda

constexpr int64_t kTileElements = kTileRowBytes / 4;  // of a row
constexpr int kFirstRowTile = 4, kFirstPanelTile = 6;

// Rows of the tiles of sums and rows of this thread; 0: not configured.
thread_local int configured_rows = 0;

__attribute__((noinline)) void configure_tiles(int rows) {
  TileConfiguration shapes;
  for (int tile = 0; tile < kTiles; ++tile) {
    shapes.rows[tile] = std::uint8_t(tile < kFirstPanelTile ? rows : kMostTileRows);
    shapes.row_bytes[tile] = kTileRowBytes;
  }
  Tiles::configure(shapes);
  configured_rows = rows;
}

// A thread that has multiplied holds no tiles any longer: they would cost every switch of threads.
inline void release_tiles() {
  if (configured_rows) Tiles::release();
  configured_rows = 0;
}

// The sums of MT tiles of rows and NT of columns; where they are two, those of every other step
// apart.
template <class E, int MT, int NT>
struct TileSums {
  static constexpr int kChains = MT * NT > 2 ? 1 : 2;
  using Sum = typename Term<E>::Sum;
  static_assert(sizeof(Sum) == kTileRowBytes && kChains * MT * NT <= kFirstRowTile);
  alignas(64) Sum sums[kChains][MT][NT][kMostTileRows];
};

template <class Body, int... index>
FC_INLINE void for_each_index(const Body& body, std::integer_sequence<int, index...>) {
  (body(std::integral_constant<int, index>{}), ...);
}
template <int kCount, class Body>
FC_INLINE void for_each_index(const Body& body) {
  for_each_index(body, std::make_integer_sequence<int, kCount>{});
}

// One step of the chain: rows[m] and the panel begin there.
template <class E, int MT, int NT, int kChain>
FC_INLINE void add_tiles(const E* const (&rows)[MT], int64_t row_bytes, const E* panel,
                         int64_t panel_bytes) {
  for_each_index<NT>([&](auto v) FC_INLINE_BODY {
    constexpr int kB = kFirstPanelTile + (kChain + v) % 2;
    Tiles::load<kB>(panel + v * kTileElements, panel_bytes);
    for_each_index<MT>([&](auto m) FC_INLINE_BODY {
      constexpr int kA = kFirstRowTile + m, kSums = (kChain * MT + m) * NT + v;
      if constexpr (v == 0) Tiles::load<kA>(rows[m], row_bytes);
      if constexpr (std::is_same_v<E, BFloat16Pair>) {
        Tiles::add_pairs<kSums, kA, kB>();
      } else {
        Tiles::add_quads<kSums, kA, kB>();
      }
    });
  });
}

// K elements, whole tiles of them.
template <int R, class E, int MT, int NT>
__attribute__((noinline)) void multiply_tiles(const E* const (&rows)[MT], int64_t K, const E* panel,
                                              TileSums<E, MT, NT>& to) {
  using Sums = TileSums<E, MT, NT>;
  constexpr int kChains = Sums::kChains;
  constexpr int64_t kPanelBytes = R * kTileRowBytes, kPanelTile = R * kTileElements * kMostTileRows;
  const E* row[MT];
  for_each_index<MT>([&](auto m) FC_INLINE_BODY { row[m] = rows[m]; });
  for_each_index<kChains * MT * NT>([](auto tile) FC_INLINE_BODY { Tiles::zero<tile>(); });
  const int64_t row_bytes = K * int64_t(sizeof(E));
  const auto step = [&](auto chain) FC_INLINE_BODY {
    add_tiles<E, MT, NT, chain>(row, row_bytes, panel, kPanelBytes);
    for_each_index<MT>([&](auto m) FC_INLINE_BODY { row[m] += kTileElements; });
    panel += kPanelTile;
  };
  int64_t k = 0;
  for (; k + kChains * kTileElements <= K; k += kChains * kTileElements) {
    for_each_index<kChains>(step);
  }
  if constexpr (kChains > 1) {
    if (k < K) step(std::integral_constant<int, 0>{});
  }
  for_each_index<kChains * MT * NT>([&](auto tile) FC_INLINE_BODY {
    Tiles::store<tile>(to.sums[tile / (MT * NT)][tile / NT % MT][tile % NT], kTileRowBytes);
  });
}

// Rows first[m] .. first[m] + height - 1 times vectors v .. of the panel; take(row, vector, sum) of
// the rows from `fresh` on.
template <int R, int MT, int v, class E, class Take>
inline void tile_columns(const int64_t (&first)[MT], int64_t height, int64_t fresh, const E* a,
                         int64_t K, const E* panel, const Take& take) {
  if constexpr (v < R) {
    constexpr int NT = R - v < 4 / MT ? R - v : 4 / MT;
    using Sums = TileSums<E, MT, NT>;
    const E* rows[MT];
    for (int m = 0; m < MT; ++m) rows[m] = a + first[m] * K;
    Sums found;
    multiply_tiles<R>(rows, K, panel + v * kTileElements, found);
    for (int m = 0; m < MT; ++m) {
      for (int64_t r = 0; r < height; ++r) {
        if (first[m] + r < fresh || (m > 0 && first[m] + r < first[m - 1] + height)) continue;
        for (int n = 0; n < NT; ++n) {
          auto sum = found.sums[0][m][n][r];
          if constexpr (Sums::kChains == 2) sum = sum + found.sums[1][m][n][r];
          take(first[m] + r, v + n, sum);
        }
      }
    }
    tile_columns<R, MT, v + NT>(first, height, fresh, a, K, panel, take);
  }
}

// take(row, vector, sum) for each of n rows of K elements and the R vectors of a panel.
template <int R, class E, class Take>
inline void tile_product(int64_t n, const E* a, int64_t K, const E* panel, const Take& take) {
  static_assert(kVectorBytes == kTileRowBytes);
  if (n <= 0) return;
  const int64_t count = divide_up(n, kMostTileRows), height = divide_up(n, count);
  if (height != configured_rows) configure_tiles(int(height));
  int64_t tile = 0, done = 0;
  const auto next = [&] { return at_most(tile++ * height, n - height); };
  while (tile + 2 <= count) {
    const int64_t first[] = {next(), next()};
    tile_columns<R, 2, 0>(first, height, done, a, K, panel, take);
    done = first[1] + height;
  }
  if (tile < count) {
    const int64_t first[] = {next()};
    tile_columns<R, 1, 0>(first, height, done, a, K, panel, take);
  }
}

}  // namespace
}  // namespace fastcells
