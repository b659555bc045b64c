// The CPU scan kernels of AVX2, where the processor has it: scan_cases.h.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx2(), "AVX2 with FMA"); }

#include "cpu/simd/avx2.h"

#include "scan_cases.h"

int check() { return fastcells::check_scan_kernels(); }
#else
int main() {}
#endif
