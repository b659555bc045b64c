// The scan's kernels for AVX512: 512-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "scan/cpu/kernels/table.h"

namespace fastcells::cpu {

const ScanKernels* avx512_scan(ScanStorage storage) { return find_scan(storage); }

}  // namespace fastcells::cpu
