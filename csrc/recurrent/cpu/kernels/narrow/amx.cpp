// The CPU kernels of weights narrower than the arithmetic, for AMX: bfloat16 and int8.
#if defined(__x86_64__)
#include "cpu/simd/amx.h"

#include "recurrent/cpu/kernels/tile_panels.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

#if defined(__x86_64__)
const CellKernels* amx_narrow(int cell, Storage storage, WeightStorage weights) {
  const CellKernels* const found = find_bfloat16<PairTiles>(cell, storage, weights);
  return found ? found : find_int8<QuadTiles>(cell, storage, weights);
}
#else
const CellKernels* amx_narrow(int, Storage, WeightStorage) { return nullptr; }
#endif

}  // namespace fastcells::cpu
