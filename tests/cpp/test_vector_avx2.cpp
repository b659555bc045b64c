// Vectors of AVX2 and FMA, where the processor has them: vector_checks.h.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"

#include "vector_checks.h"

int main() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return fastcells::check_vectors();
  }
  std::puts("skipped: this processor has no AVX2 with FMA");
}
#else
int main() {}
#endif
