// The CPU sequence kernels of AVX2, where the processor has it: sequence_cases.h. How a cell is run
// knows no instruction set, and test_sequence_kernels.cpp has every cell.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx2(), "AVX2 with FMA"); }

#include "cpu/simd/avx2.h"

#include "sequence_cases.h"

int check() { return fastcells::check_ways_of_weights(); }
#else
int main() {}
#endif
