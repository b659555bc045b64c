// Vectors of AVX2 and FMA, where the processor has them: vector_checks.h.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx2(), "AVX2 with FMA"); }

#include "cpu/simd/avx2.h"

#include "vector_checks.h"

int check() { return fastcells::check_vectors(); }
#else
int main() {}
#endif
