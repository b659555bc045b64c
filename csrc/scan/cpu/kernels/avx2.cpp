// The scan's kernels for AVX2 and FMA: 256-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "scan/cpu/kernels/table.h"

namespace fastcells::cpu {

const ScanKernels* avx2_scan(ScanStorage storage) { return find_scan(storage); }

}  // namespace fastcells::cpu
