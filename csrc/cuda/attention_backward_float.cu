// Attention backward, stored as float.
#include "cuda/attention_backward_launch.cuh"

namespace fastcells::cuda {

template int launch_attention_backward<float>(const AttentionBackwardArgs&, void*);

}  // namespace fastcells::cuda
