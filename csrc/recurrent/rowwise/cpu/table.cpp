// The kernels of the instruction set in use, or of what it contains.
#include "cpu/instruction_set.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/rowwise/cpu/kernels/args.h"

namespace fastcells::rowwise {

const Kernels* find_kernels(int cell, Storage storage) {
  if (compiled::is_compiled(CellKind(cell))) {
    const auto* const own = compiled::find(CellKind(cell), storage);
    return own ? own->rowwise : nullptr;
  }
  const cpu::InstructionSet set = cpu::instruction_set();
  if (set >= cpu::InstructionSet::kAvx512) return avx512_kernels(cell, storage);
  return set >= cpu::InstructionSet::kAvx2 ? avx2_kernels(cell, storage)
                                           : baseline_kernels(cell, storage);
}

}  // namespace fastcells::rowwise
