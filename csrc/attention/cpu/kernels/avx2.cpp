// The attention kernels for AVX2 and FMA: 256-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "attention/cpu/kernels/table.h"

namespace fastcells::cpu {

const AttentionKernels* avx2_attention(Score score, Storage storage) {
  return find_attention(score, storage);
}

}  // namespace fastcells::cpu
