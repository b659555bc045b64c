// The CPU kernels for AVX512: 512-bit vectors.
// The instruction set is switched on here, in front of every header, and not by flags of the build:
// what this file defines is its own (cpu/simd/vector.h).
#if defined(__x86_64__)
#define FASTCELLS_AVX512 1
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")
#endif
#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellTable& avx512_kernels() {
  static constexpr CellTable table{find_kernels, hash_bytes};
  return table;
}

}  // namespace fastcells::cpu
