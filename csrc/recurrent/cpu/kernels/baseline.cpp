// The CPU kernels for 128-bit vectors, which every x86-64 processor (and every 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "recurrent/cpu/kernels/hash.h"
#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const CellTable& baseline_kernels() {
  static constexpr CellTable table{find_whole, hash_in_lanes};
  return table;
}

}  // namespace fastcells::cpu
