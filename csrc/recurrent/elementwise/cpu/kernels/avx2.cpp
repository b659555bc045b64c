// The CPU kernels of elementwise cells for AVX2 and FMA: 256-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/elementwise/cpu/kernels/table.h"

namespace fastcells::elementwise {

const Kernels* avx2_kernels(int cell, Storage storage) { return find_elementwise(cell, storage); }

}  // namespace fastcells::elementwise
