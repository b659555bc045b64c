// The CPU kernels of weights narrower than the arithmetic, for AVX512.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* avx512_narrow(int cell, Storage storage, WeightStorage weights) {
  return find_narrow(cell, storage, weights);
}

}  // namespace fastcells::cpu
