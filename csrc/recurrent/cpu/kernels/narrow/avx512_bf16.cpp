// The CPU kernels of weights narrower than the arithmetic, for AVX512 with its BF16: bfloat16
// alone.
#if defined(__x86_64__)
#include "cpu/simd/avx512_bf16.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* avx512_bf16_narrow(int cell, Storage storage, WeightStorage weights) {
  return find_bfloat16<PairPanels>(cell, storage, weights);
}

}  // namespace fastcells::cpu
