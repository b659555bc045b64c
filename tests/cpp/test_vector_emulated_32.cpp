// Vectors of 32 bytes on 16-byte registers, the compiler's work: vector_checks.h.
#define FASTCELLS_VECTOR_BYTES 32
#include "cpu/simd/baseline.h"

#include "vector_checks.h"

int main() { return fastcells::check_vectors(); }
