// Attention forward, stored as __nv_bfloat16.
#include "attention/cuda/dot/forward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_forward<__nv_bfloat16>(const AttentionForwardArgs&, void*);

}  // namespace fastcells::cuda
