// The kernels of the instruction set in use, or of what it contains.
#include "cpu/instruction_set.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/cpu/kernels/args.h"

namespace fastcells::cpu {
namespace {

const CellTable& table() {
  const InstructionSet set = instruction_set();
  if (set >= InstructionSet::kAvx512) return avx512_kernels();
  return set >= InstructionSet::kAvx2 ? avx2_kernels() : baseline_kernels();
}

const CellKernels* find_narrow(int cell, Storage storage, WeightStorage weights) {
  struct Set {
    InstructionSet set;
    FindKernels find;
  };
  // Of two that contain a third the later asks the earlier.
  static constexpr Set kSets[] = {
      {InstructionSet::kAmx, amx_narrow},
      {InstructionSet::kAvx512Bf16, avx512_bf16_narrow},
      {InstructionSet::kAvx512Vnni, avx512_vnni_narrow},
      {InstructionSet::kAvx512, avx512_narrow},
      {InstructionSet::kAvx2Vnni, avx2_vnni_narrow},
      {InstructionSet::kAvx2, avx2_narrow},
      {InstructionSet::kBaseline, baseline_narrow},
  };
  for (const Set& candidate : kSets) {
    if (candidate.set > instruction_set()) continue;
    const CellKernels* const found = candidate.find(cell, storage, weights);
    if (found) return found;
  }
  return nullptr;
}

}  // namespace

const CellKernels* find_kernels(int cell, Storage storage, WeightStorage weights) {
  if (compiled::is_compiled(CellKind(cell))) {
    const auto* const own = compiled::find(CellKind(cell), storage);
    return own && weights == WeightStorage::kAsTensors ? own->dense : nullptr;
  }
  const CellKernels* const whole = table().find(cell, storage, weights);
  return whole ? whole : find_narrow(cell, storage, weights);
}

std::uint64_t hash_bytes(const void* bytes, std::int64_t count) {
  return table().hash(bytes, count);
}

}  // namespace fastcells::cpu
