// The scan's kernels for 128-bit vectors, which every x86-64 processor (and every 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "scan/cpu/kernels/table.h"

namespace fastcells::cpu {

const ScanKernels* baseline_scan(ScanStorage storage) { return find_scan(storage); }

}  // namespace fastcells::cpu
