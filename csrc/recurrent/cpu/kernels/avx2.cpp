// The CPU kernels for AVX2 and FMA: 256-bit vectors.
#if defined(__x86_64__)
#include "cpu/simd/avx2.h"
#else
#include "cpu/simd/baseline.h"
#endif

#include "recurrent/cpu/kernels/hash.h"
#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellTable& avx2_kernels() {
  static constexpr CellTable table{find_whole, hash_in_lanes};
  return table;
}

}  // namespace fastcells::cpu
