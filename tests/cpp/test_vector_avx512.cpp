// Vectors of AVX512, where the processor has them: vector_checks.h.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"

#include "vector_checks.h"

int main() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return fastcells::check_vectors();
  }
  std::puts("skipped: this processor has no AVX512 (F, BW, DQ, VL)");
}
#else
int main() {}
#endif
