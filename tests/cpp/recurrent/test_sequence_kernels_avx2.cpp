// The CPU sequence kernels of AVX2, where the processor has it: sequence_cases.h. How a cell is run
// knows no instruction set, and test_sequence_kernels.cpp has every cell.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"

#include "sequence_cases.h"

int main() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return fastcells::check_ways_of_weights();
  }
  std::puts("skipped: this processor has no AVX2 with FMA");
}
#else
int main() {}
#endif
