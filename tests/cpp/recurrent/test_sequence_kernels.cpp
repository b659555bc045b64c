// The CPU sequence kernels with AVX512's vectors and tiles on 16-byte registers, so that they run
// on every processor: sequence_cases.h. Which elements are read is checked, not speed: -O1 compiles
// in half the time of -O3.
#define FASTCELLS_VECTOR_BYTES 64
#pragma GCC optimize("O1")
#include "cpu/simd/baseline.h"

#include "sequence_cases.h"

int main() { return fastcells::check_sequence_kernels(); }
