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

int main() { return fastcells::check_tile_kernels(); }
