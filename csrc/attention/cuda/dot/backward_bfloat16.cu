// Attention backward, stored as __nv_bfloat16.
#include "attention/cuda/dot/backward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_backward<__nv_bfloat16>(const AttentionBackwardArgs&, void*);

}  // namespace fastcells::cuda
