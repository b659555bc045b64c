// Attention backward, stored as float.
#include "attention/cuda/dot/backward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_backward<float>(const AttentionBackwardArgs&, void*);

}  // namespace fastcells::cuda
