// Attention forward, stored as float.
#include "attention/cuda/dot/forward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_forward<float>(const AttentionForwardArgs&, void*);

}  // namespace fastcells::cuda
