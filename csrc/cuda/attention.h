// The attention engine of CUDA: results and scratch from torch's allocator around the launchers of
// cuda/attention_launch.h and cuda/additive_launch.h, on torch's current stream.
#pragma once
#include "attention/entry.h"

namespace fastcells::cuda {

const AttentionEngine& attention_engine();

}  // namespace fastcells::cuda
