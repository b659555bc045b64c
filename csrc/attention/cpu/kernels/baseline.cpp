// The attention kernels for 128-bit vectors, which every x86-64 processor (and every 64-bit Arm)
// has.
#include "cpu/simd/baseline.h"

#include "attention/cpu/kernels/table.h"

namespace fastcells::cpu {

const AttentionKernels* baseline_attention(Score score, Storage storage) {
  return find_attention(score, storage);
}

}  // namespace fastcells::cpu
