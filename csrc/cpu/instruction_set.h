// Which instruction set the CPU kernels use: the best that the processor has, or the one that
// FASTCELLS_CPU_ISA names, read once. Each topic keeps a table of its kernels for each
// (recurrent/cpu/kernels, attention/cpu/kernels); where it has none of its own for one, those of
// the set that it contains.
#pragma once
#include <cstdint>

namespace fastcells::cpu {

// "baseline", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx": the later the
// better.
enum class InstructionSet { kBaseline, kAvx2, kAvx2Vnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

// Throws if FASTCELLS_CPU_ISA names one that is unknown or that this processor lacks.
InstructionSet instruction_set();
const char* name_of(InstructionSet set);
// Bytes of a core's second-level cache.
std::int64_t cache_bytes();

}  // namespace fastcells::cpu
