// Which instruction set the CPU kernels use: the best that the processor has, or the one that
// FASTCELLS_CPU_ISA names ("baseline", "avx2", "avx512"), read once. Each topic keeps a table of
// its kernels for each (recurrent/cpu/kernels, attention/cpu/kernels).
#pragma once
#include <cstdint>

namespace fastcells::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// Throws if FASTCELLS_CPU_ISA names one that is unknown or that this processor lacks.
InstructionSet instruction_set();
const char* name_of(InstructionSet set);
// Bytes of a core's second-level cache.
std::int64_t cache_bytes();

}  // namespace fastcells::cpu
