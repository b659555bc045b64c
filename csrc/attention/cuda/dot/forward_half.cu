// Attention forward, stored as __half.
#include "attention/cuda/dot/forward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_forward<__half>(const AttentionForwardArgs&, void*);

}  // namespace fastcells::cuda
