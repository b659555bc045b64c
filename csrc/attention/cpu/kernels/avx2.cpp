// The attention kernels for AVX2 and FMA: 256-bit vectors.
// The instruction set is switched on here, in front of every header, and not by flags of the build:
// what this file defines is its own (cpu/simd/vector.h).
#if defined(__x86_64__)
#define FASTCELLS_AVX2 1
#pragma GCC target("avx2,fma,f16c")
#endif
#include "attention/cpu/kernels/table.h"

namespace fastcells::cpu {

const AttentionKernels* avx2_attention(Score score, Storage storage) {
  return find_attention(score, storage);
}

}  // namespace fastcells::cpu
