// The attention engine of the CPU: cuts a checked call into tasks and runs them on a team of
// threads with the kernels of an instruction set (attention/cpu/kernels/args.h).
#pragma once
#include "attention/engine.h"

namespace fastcells::cpu {

const AttentionEngine& attention_engine();

}  // namespace fastcells::cpu
