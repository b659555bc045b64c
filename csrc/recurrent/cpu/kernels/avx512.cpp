// The CPU kernels for AVX512: 512-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/hash.h"
#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellTable& avx512_kernels() {
  static constexpr CellTable table{find_whole, hash_in_lanes};
  return table;
}

}  // namespace fastcells::cpu
