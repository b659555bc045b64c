// The CPU kernels of weights narrower than the arithmetic, for 128-bit vectors, which every x86-64
// processor (and every 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* baseline_narrow(int cell, Storage storage, WeightStorage weights) {
  return find_narrow(cell, storage, weights);
}

}  // namespace fastcells::cpu
