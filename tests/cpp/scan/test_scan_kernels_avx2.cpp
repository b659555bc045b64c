// The CPU scan kernels of AVX2, where the processor has it: scan_cases.h.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"

#include "scan_cases.h"

int main() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return fastcells::check_scan_kernels();
  }
  std::puts("skipped: this processor has no AVX2 with FMA");
}
#else
int main() {}
#endif
