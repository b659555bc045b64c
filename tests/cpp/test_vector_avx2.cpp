// Vectors of AVX2 and FMA, where the processor has them: vector_checks.h.
#if defined(__x86_64__)
#define FASTCELLS_AVX2 1
#pragma GCC target("avx2,fma,f16c")
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
