// The CPU kernels of weights narrower than the arithmetic, for AVX512.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* avx512_narrow(int cell, Storage storage, WeightStorage weights) {
  if (const auto* found = find_bfloat16<NarrowPanels<BFloat16Bits>>(cell, storage, weights)) {
    return found;
  }
  if (const auto* found = find_float16(cell, storage, weights)) return found;
  return find_int8(cell, storage, weights);
}

}  // namespace fastcells::cpu
