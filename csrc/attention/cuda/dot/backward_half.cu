// Attention backward, stored as __half.
#include "attention/cuda/dot/backward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_backward<__half>(const AttentionBackwardArgs&, void*);

}  // namespace fastcells::cuda
