// Vectors of AVX512, where the processor has them: vector_checks.h.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx512(), "AVX512 (F, BW, DQ, VL)"); }

#include "cpu/simd/avx512.h"

#include "vector_checks.h"

int check() { return fastcells::check_vectors(); }
#else
int main() {}
#endif
