// The CPU sequence kernels on tiles: rows, units and inputs that miss a tile, panels of each width.
// Included behind a struct Tiles.
#pragma once
#include "recurrent/cpu/kernels/tile_panels.h"
#include "sequence_cases.h"

namespace fastcells {
namespace {

constexpr Case kTileCases[] = {
    // T, B, I, H, reverse, lengths, resets, bias, states
    {3, 6, 33, 23, false, false, true},
    {6, 13, 5, 7, true, true, true, false},
    {1, 18, 64, 40},
    {5, 60, 40, 33, false, true, false, true, false},  // more than a block of frames
    {2, 37, 33, 16, true},
    {2, 70, 1, 1, false, true},
};

template <class Cell>
bool check_tiles() {
  bool ok = true;
  int index = 0;
  for (const Case& c : kTileCases) {
    ok = ok && check_case<Cell, BFloat16Bits, PairTiles>(c, index++, 3);
  }
  std::printf("%-9s on tiles: %s\n", Cell::kName, ok ? "ok" : "FAILED");
  return ok;
}

inline bool have_released() {
  if (configured_rows == 0) return true;
  std::puts("FAILED: a pass left its tiles behind");
  return false;
}

}  // namespace
}  // namespace fastcells
