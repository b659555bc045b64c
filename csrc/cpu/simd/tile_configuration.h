// What AMX's ldtilecfg reads: the rows of each tile and the bytes of a row.
#pragma once
#include <cstdint>

namespace fastcells {
namespace {

constexpr int kTiles = 8, kMostTileRows = 16, kTileRowBytes = 64;

struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfiguration) == 64);

}  // namespace
}  // namespace fastcells
