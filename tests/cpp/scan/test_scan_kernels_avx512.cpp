// The CPU scan kernels of AVX512, where the processor has it: scan_cases.h.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx512(), "AVX512 (F, BW, DQ, VL)"); }

#include "cpu/simd/avx512.h"

#include "scan_cases.h"

int check() { return fastcells::check_scan_kernels(); }
#else
int main() {}
#endif
