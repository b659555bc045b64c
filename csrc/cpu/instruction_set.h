// Which instruction set the CPU kernels use: the best that the processor has, or the one that
// FASTCELLS_CPU_ISA names ("baseline", "avx2", "avx512"), read once.
#pragma once
#include "recurrent/cpu/kernels/args.h"
#include "recurrent/cells/dispatch.h"

namespace fastcells::cpu {

// Throws if FASTCELLS_CPU_ISA names one that is unknown or that this processor lacks.
const InstructionSet& instruction_set();
// What its tables have; float16 has no kernels, and must not come here.
CellStorage cell_storage(Storage storage);
// Bytes of a core's second-level cache.
std::int64_t cache_bytes();

}  // namespace fastcells::cpu
