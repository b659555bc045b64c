// The CPU kernels for 128-bit vectors, which every x86-64 processor (and every 64-bit Arm) has.
#include "recurrent/cpu/kernels/table.h"

namespace fastcells::cpu {

const InstructionSet& baseline_kernels() {
  static constexpr InstructionSet set{"baseline", find_kernels, hash_bytes, baseline_attention};
  return set;
}

}  // namespace fastcells::cpu
