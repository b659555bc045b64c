// The launchers of attention_launch.h for one type of storage: float, __half or __nv_bfloat16.
#pragma once
#include "attention/cuda/dot/launch.h"

namespace fastcells::cuda {

template <class T>
int launch_attention_forward(const AttentionForwardArgs& args, void* stream);
template <class T>
int launch_attention_backward(const AttentionBackwardArgs& args, void* stream);

}  // namespace fastcells::cuda
