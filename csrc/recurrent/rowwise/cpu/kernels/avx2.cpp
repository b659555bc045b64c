// The CPU kernels of layers that look at whole rows for AVX2 and FMA: 256-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/rowwise/cpu/kernels/table.h"

namespace fastcells::rowwise {

const Kernels* avx2_kernels(int cell, Storage storage) { return find_rowwise(cell, storage); }

}  // namespace fastcells::rowwise
