// The CPU sequence kernels on tiles: all cases of sequence_cases.h for one cell, some for the
// others. Included behind a struct Tiles.
#pragma once
#include "recurrent/cpu/kernels/tile_panels.h"
#include "sequence_cases.h"

namespace fastcells {
namespace {

// Some rows, and several tiles of them; units and inputs that miss a tile.
template <class Cell>
bool check_tiles() {
  bool ok = true;
  for (const std::int64_t B : {6, 37, 70}) {
    // T, B, I, H, reverse, lengths, resets
    ok = ok && check_case<Cell, BFloat16Bits, PairTiles>({3, B, 33, 23, B == 37, B == 70, true},
                                                         int(B), 2);
  }
  ok = ok && check_case<Cell, BFloat16Bits, PairTiles>({1, 18, 64, 40}, 0, 1);
  std::printf("%-11s bfloat16: %s\n", Cell::kName, ok ? "ok" : "FAILED");
  return ok;
}

// The program's exit status.
__attribute__((noinline)) int check_tile_kernels() {
  watch_guards();
  bool ok = check_cell<LSTM, BFloat16Bits, PairTiles>();
  ok &= check_tiles<GRU>();
  ok &= check_tiles<RNN<Tanh>>();
  ok &= check_tiles<GRUArticle>();
  ok &= check_int8<GRU, QuadTiles>() && check_int8<GRU, QuadTiles>({3, 70, 65, 19, true, true});
  ok &= check_int8<RNN<Tanh>, QuadTiles>();
  ok &= check_int8<LSTM, QuadTiles>();
  if (configured_rows != 0) ok = false, std::puts("FAILED: a pass left its tiles behind");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
