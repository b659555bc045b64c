#include "cpu/instruction_set.h"

#include <c10/util/Exception.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace fastcells::cpu {
namespace {

// Those that this processor runs, the best first.
std::vector<const InstructionSet*> supported() {
  std::vector<const InstructionSet*> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    sets.push_back(&avx512_kernels());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&avx2_kernels());
  }
#endif
  sets.push_back(&baseline_kernels());
  return sets;
}

const InstructionSet& choose() {
  const auto sets = supported();
  const char* const wish = std::getenv("FASTCELLS_CPU_ISA");
  if (!wish || !*wish) return *sets.front();
  std::string names;
  for (const InstructionSet* set : sets) {
    if (std::string(wish) == set->name) return *set;
    names += (names.empty() ? "" : ", ") + std::string(set->name);
  }
  TORCH_CHECK_VALUE(false,
                    "fastcells: FASTCELLS_CPU_ISA must name an instruction set of this "
                    "processor (",
                    names, "), got '", wish, "'");
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

CellStorage cell_storage(Storage storage) {
  switch (storage) {
    case Storage::kFloat64: return CellStorage::kFloat64;
    case Storage::kBFloat16: return CellStorage::kBFloat16;
    default: return CellStorage::kFloat32;
  }
}

std::int64_t cache_bytes() {
  constexpr std::int64_t kUnknown = 512 * 1024;
  static const std::int64_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return std::int64_t(found);
#endif
    return kUnknown;
  }();
  return bytes;
}

}  // namespace fastcells::cpu
