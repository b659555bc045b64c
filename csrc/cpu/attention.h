// The attention engine of the CPU: cuts a checked call into tasks and runs them on a team of
// threads with the kernels of an instruction set (cpu/isa/attention_args.h).
#pragma once
#include "attention/entry.h"

namespace fastcells::cpu {

const AttentionEngine& attention_engine();

}  // namespace fastcells::cpu
