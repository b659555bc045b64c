// The CPU scan kernels of AVX512, where the processor has it: scan_cases.h.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"

#include "scan_cases.h"

int main() {
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return fastcells::check_scan_kernels();
  }
  std::puts("skipped: this processor has no AVX512");
}
#else
int main() {}
#endif
