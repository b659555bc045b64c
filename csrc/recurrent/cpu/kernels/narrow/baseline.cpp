// The CPU kernels of weights narrower than the arithmetic, for 128-bit vectors, which every x86-64
// processor (and every 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* baseline_narrow(int cell, Storage storage, WeightStorage weights) {
  if (const auto* found = find_bfloat16<NarrowPanels<BFloat16Bits>>(cell, storage, weights)) {
    return found;
  }
  if (const auto* found = find_float16(cell, storage, weights)) return found;
  return find_int8(cell, storage, weights);
}

}  // namespace fastcells::cpu
