// Vectors of 16 bytes, which every processor has: vector_checks.h.
#include "cpu/simd/baseline.h"

#include "vector_checks.h"

int main() { return fastcells::check_vectors(); }
