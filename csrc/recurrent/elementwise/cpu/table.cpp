// The kernels of the instruction set in use, or of what it contains.
#include "cpu/instruction_set.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/elementwise/cpu/kernels/args.h"

namespace fastcells::elementwise {

const Kernels* find_kernels(int cell, Storage storage) {
  if (cell >= ElementwiseCells::kCount) {
    const auto* const own = compiled::find(CellKind(Cells::kCount + cell), storage);
    return own ? own->elementwise : nullptr;
  }
  const cpu::InstructionSet set = cpu::instruction_set();
  if (set >= cpu::InstructionSet::kAvx512) return avx512_kernels(cell, storage);
  return set >= cpu::InstructionSet::kAvx2 ? avx2_kernels(cell, storage)
                                           : baseline_kernels(cell, storage);
}

}  // namespace fastcells::elementwise
