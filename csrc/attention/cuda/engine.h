// The attention engine of CUDA: results and scratch from torch's allocator around the launchers of
// attention/cuda/dot/launch.h and attention/cuda/additive/launch.h, on torch's current stream.
#pragma once
#include "attention/engine.h"

namespace fastcells::cuda {

const AttentionEngine& attention_engine();

}  // namespace fastcells::cuda
