// The CPU kernels of layers that look at whole rows for AVX512: 512-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/rowwise/cpu/kernels/table.h"

namespace fastcells::rowwise {

const Kernels* avx512_kernels(int cell, Storage storage) { return find_rowwise(cell, storage); }

}  // namespace fastcells::rowwise
