// The tile instructions of AMX in plain C++, by Intel's manual (SDM, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TDPBUSD): a test takes it in the place of
// cpu/simd/amx.h's Tiles.
//
// What the processor would refuse (shapes that do not fit, tiles that are not configured) ends the
// program, and so does what is no more than wrong: reading a tile that nothing was written to, or,
// once memory has been declared, a load that reads anything else. Torch-free.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/simd/tile_configuration.h"

namespace fastcells {
namespace {

inline void refuse(const char* why) {
  std::printf("FAILED: tiles: %s\n", why);
  std::fflush(stdout);
  std::_Exit(1);
}
inline void demand(bool holds, const char* what) {
  if (!holds) refuse(what);
}

inline bool is_subnormal(float x) { return std::fabs(x) < 0x1p-126f; }  // or zero
inline float flushed(float x) { return is_subnormal(x) ? std::copysign(0.0f, x) : x; }
// acc + a * b rounded once, subnormal numbers zero. a and b have 8 bits, so that their product is
// exact where it is normal.
inline float add_product(float acc, float a, float b) {
  const float product = a * b;
  const bool is_exact = std::isfinite(product) && (!is_subnormal(product) || a == 0 || b == 0);
  return flushed(is_exact ? acc + product : std::fma(a, b, acc));
}

struct TileTwin {
  static void configure(const TileConfiguration& shapes) {
    demand(shapes.palette == 1 && shapes.start_row == 0, "palette 1 from row 0 is expected");
    for (const std::uint8_t byte : shapes.reserved) demand(byte == 0, "reserved bytes must be 0");
    for (int tile = 0; tile < 16; ++tile) {
      const int rows = shapes.rows[tile], bytes = shapes.row_bytes[tile];
      demand(tile < kTiles || (rows == 0 && bytes == 0), "there are 8 tiles");
      demand(rows <= kMostTileRows && bytes <= kTileRowBytes, "a tile is at most 16 x 64 bytes");
      demand((rows == 0) == (bytes == 0), "rows without bytes, or bytes without rows");
      if (tile < kTiles) state().tiles[tile] = {rows, bytes, false, {}};
    }
    state().is_configured = true;
    ++state().configurations;
  }
  static void release() {
    demand(state().is_configured, "released without having been configured");
    state() = {{}, false, state().configurations};
  }
  static bool are_held() { return state().is_configured; }
  static int configurations() { return state().configurations; }  // of this thread, so far

  static void zero(int number) {
    Tile& tile = configured(number);
    std::memset(tile.rows, 0, sizeof tile.rows);
    tile.is_written = true;
  }
  static void load(int number, const void* first, std::int64_t stride) {
    zero(number);
    Tile& tile = configured(number);
    for (int row = 0; row < tile.row_count; ++row) {
      const char* const from = static_cast<const char*>(first) + row * stride;
      demand(is_declared(from, tile.row_bytes), "a load reads past a buffer");
      std::memcpy(tile.rows[row], from, tile.row_bytes);
    }
  }
  static void store(int number, void* first, std::int64_t stride) {
    const Tile& tile = written(number);
    for (int row = 0; row < tile.row_count; ++row) {
      std::memcpy(static_cast<char*>(first) + row * stride, tile.rows[row], tile.row_bytes);
    }
  }
  // Even and odd places of a row are summed apart, from zero, and added to each other and then to
  // the sum.
  static void add_pairs(int sums_number, int a, int b) {
    const Operands o = operands(sums_number, a, b);
    for (int m = 0; m < o.sums.row_count; ++m) {
      float even[kTileRowBytes / 4] = {}, odd[kTileRowBytes / 4] = {}, sums[kTileRowBytes / 4];
      for (int k = 0; k < o.a.row_bytes / 4; ++k) {
        for (int n = 0; n < o.sums.row_bytes / 4; ++n) {
          even[n] = add_product(even[n], half(o.a, m, 2 * k), half(o.b, k, 2 * n));
          odd[n] = add_product(odd[n], half(o.a, m, 2 * k + 1), half(o.b, k, 2 * n + 1));
        }
      }
      std::memcpy(sums, o.sums.rows[m], sizeof sums);
      for (int n = 0; n < o.sums.row_bytes / 4; ++n) {
        sums[n] = flushed(flushed(sums[n]) + flushed(even[n] + odd[n]));
      }
      std::memcpy(o.sums.rows[m], sums, o.sums.row_bytes);
    }
  }
  // Bytes without a sign times bytes with one; a sum wraps round.
  static void add_quads(int sums_number, int a, int b) {
    const Operands o = operands(sums_number, a, b);
    for (int m = 0; m < o.sums.row_count; ++m) {
      std::uint32_t sums[kTileRowBytes / 4];
      std::memcpy(sums, o.sums.rows[m], sizeof sums);
      for (int k = 0; k < o.a.row_bytes / 4; ++k) {
        for (int n = 0; n < o.sums.row_bytes / 4; ++n) {
          for (int byte = 0; byte < 4; ++byte) {
            const int x = o.a.rows[m][4 * k + byte];
            const int w = static_cast<signed char>(o.b.rows[k][4 * n + byte]);
            sums[n] += std::uint32_t(x * w);
          }
        }
      }
      std::memcpy(o.sums.rows[m], sums, o.sums.row_bytes);
    }
  }

  // As struct Tiles has them.
  template <int kTile>
  static void zero() {
    zero(kTile);
  }
  template <int kTile>
  static void load(const void* first, std::int64_t stride) {
    load(kTile, first, stride);
  }
  template <int kTile>
  static void store(void* first, std::int64_t stride) {
    store(kTile, first, stride);
  }
  template <int kSums, int kA, int kB>
  static void add_pairs() {
    add_pairs(kSums, kA, kB);
  }
  template <int kSums, int kA, int kB>
  static void add_quads() {
    add_quads(kSums, kA, kB);
  }

  // Loads may read this memory, and once there is some, no other.
  static void declare(const void* first, std::int64_t bytes) {
    declared().push_back({static_cast<const char*>(first), bytes});
  }
  static void declare_nothing() { declared().clear(); }

 private:
  struct Tile {
    int row_count, row_bytes;
    bool is_written;
    unsigned char rows[kMostTileRows][kTileRowBytes];
  };
  struct State {
    Tile tiles[kTiles];
    bool is_configured;
    int configurations;
  };
  struct Operands {
    Tile& sums;
    const Tile &a, &b;
  };
  static State& state() {
    thread_local State own{};
    return own;
  }
  using Memory = std::vector<std::pair<const char*, std::int64_t>>;
  static Memory& declared() {
    static Memory memory;
    return memory;
  }
  static bool is_declared(const char* first, std::int64_t bytes) {
    for (const auto& [begin, length] : declared()) {
      if (first >= begin && first + bytes <= begin + length) return true;
    }
    return declared().empty();
  }
  static Tile& configured(int number) {
    demand(number >= 0 && number < kTiles, "there are 8 tiles");
    demand(state().is_configured && state().tiles[number].row_count > 0, "not configured");
    return state().tiles[number];
  }
  static Tile& written(int number) {
    Tile& tile = configured(number);
    demand(tile.is_written, "nothing was written to a tile that is read");
    return tile;
  }
  static Operands operands(int sums, int a, int b) {
    demand(sums != a && sums != b && a != b, "three different tiles are expected");
    const Operands o{written(sums), written(a), written(b)};
    demand(o.sums.row_count == o.a.row_count, "the sums have not the rows of a");
    demand(o.sums.row_bytes == o.b.row_bytes, "the sums have not the columns of b");
    demand(o.a.row_bytes / 4 == o.b.row_count, "b has not a row for each element of a");
    demand(o.a.row_bytes % 4 == 0 && o.b.row_bytes % 4 == 0, "elements have 4 bytes");
    return o;
  }
  static float half(const Tile& tile, int row, int place) {
    const std::uint32_t bits = std::uint32_t(tile.rows[row][2 * place]) << 16 |
                               std::uint32_t(tile.rows[row][2 * place + 1]) << 24;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return flushed(x);
  }
};

}  // namespace
}  // namespace fastcells
