// The CPU kernels of elementwise cells for AVX512: 512-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/elementwise/cpu/kernels/table.h"

namespace fastcells::elementwise {

const Kernels* avx512_kernels(int cell, Storage storage) { return find_elementwise(cell, storage); }

}  // namespace fastcells::elementwise
