// The CPU sequence kernels on tiles, those of tile_twin.h: on every processor.
#define FASTCELLS_VECTOR_BYTES 64
#pragma GCC optimize("O1")
#include "cpu/simd/baseline.h"
#include "tile_twin.h"

namespace fastcells {
namespace {
using Tiles = TileTwin;
}
}  // namespace fastcells

#include "tile_cases.h"

int main() {
  using namespace fastcells;
  watch_guards();
  bool ok = check_tiles<LSTM>();
  ok &= check_tiles<GRU>();
  ok &= check_tiles<RNN<Tanh>>();
  ok &= check_int8<GRU, QuadTiles>() && check_int8<GRU, QuadTiles>({3, 70, 65, 19, true, true});
  return have_released() && ok ? 0 : 1;
}
