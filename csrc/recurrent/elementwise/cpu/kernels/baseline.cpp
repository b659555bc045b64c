// The CPU kernels of elementwise cells for 128-bit vectors, which every x86-64 processor (and every
// 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "recurrent/elementwise/cpu/kernels/table.h"

namespace fastcells::elementwise {

const Kernels* baseline_kernels(int cell, Storage storage) {
  return find_elementwise(cell, storage);
}

}  // namespace fastcells::elementwise
