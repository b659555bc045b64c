// The CPU scan kernels with AVX2's vectors on 16-byte registers, so that they run on every
// processor: scan_cases.h. Which elements are read is checked, not speed.
#define FASTCELLS_VECTOR_BYTES 32
#pragma GCC optimize("O1")
#include "cpu/simd/baseline.h"

#include "scan_cases.h"

int main() { return fastcells::check_scan_kernels(); }
