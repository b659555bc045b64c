// The CPU kernels of weights narrower than the arithmetic, for AVX512 with its VNNI: int8 alone.
#if defined(__x86_64__)
#include "cpu/simd/avx512_vnni.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellKernels* avx512_vnni_narrow(int cell, Storage storage, WeightStorage weights) {
  return find_int8(cell, storage, weights);
}

}  // namespace fastcells::cpu
