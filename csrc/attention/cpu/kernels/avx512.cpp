// The attention kernels for AVX512: 512-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "attention/cpu/kernels/table.h"

namespace fastcells::cpu {

const AttentionKernels* avx512_attention(Score score, Storage storage) {
  return find_attention(score, storage);
}

}  // namespace fastcells::cpu
