// The CPU kernels of layers that look at whole rows for 128-bit vectors, which every x86-64
// processor (and every 64-bit Arm) has.
#include "cpu/simd/baseline.h"

#include "recurrent/rowwise/cpu/kernels/table.h"

namespace fastcells::rowwise {

const Kernels* baseline_kernels(int cell, Storage storage) { return find_rowwise(cell, storage); }

}  // namespace fastcells::rowwise
