#include "cpu/instruction_set.h"

#include <c10/util/Exception.h>
#include <unistd.h>

#include "cpu/tile_permission.h"

#include <cstdlib>
#include <string>
#include <vector>

namespace fastcells::cpu {
namespace {

// Those that this processor runs, the best first, without tiles.
std::vector<InstructionSet> supported() {
  std::vector<InstructionSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_vnni = __builtin_cpu_supports("avx512vnni");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (has_vnni && __builtin_cpu_supports("avx512bf16")) {
      sets.push_back(InstructionSet::kAvx512Bf16);
    }
    if (has_vnni) sets.push_back(InstructionSet::kAvx512Vnni);
    sets.push_back(InstructionSet::kAvx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avxvnni")) sets.push_back(InstructionSet::kAvx2Vnni);
    sets.push_back(InstructionSet::kAvx2);
  }
#endif
  sets.push_back(InstructionSet::kBaseline);
  return sets;
}

InstructionSet choose() {
  auto sets = supported();
  const char* const given = std::getenv("FASTCELLS_CPU_ISA");
  const std::string wish = given ? given : "";
  // Who names another set has no tiles asked of the system: its answer holds for the process.
  for (const InstructionSet set : sets) {
    if (wish == name_of(set)) return set;
  }
  if (sets.front() == InstructionSet::kAvx512Bf16 && may_use_tiles()) {
    sets.insert(sets.begin(), InstructionSet::kAmx);
  }
  if (wish.empty() || wish == name_of(sets.front())) return sets.front();
  std::string names;
  for (const InstructionSet set : sets) {
    names += (names.empty() ? "" : ", ") + std::string(name_of(set));
  }
  TORCH_CHECK_VALUE(false,
                    "fastcells: FASTCELLS_CPU_ISA must name an instruction set of this "
                    "processor (",
                    names, "), got '", wish, "'");
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBaseline: return "baseline";
    case InstructionSet::kAvx2: return "avx2";
    case InstructionSet::kAvx2Vnni: return "avx2_vnni";
    case InstructionSet::kAvx512: return "avx512";
    case InstructionSet::kAvx512Vnni: return "avx512_vnni";
    case InstructionSet::kAvx512Bf16: return "avx512_bf16";
    case InstructionSet::kAmx: return "amx";
  }
  return "unknown";
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
