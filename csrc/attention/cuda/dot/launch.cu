// The launchers of attention_launch.h: storage becomes a type.
#include <cuda_runtime.h>

#include "attention/cuda/dot/typed.h"
#include "cuda/storage.cuh"

namespace fastcells::cuda {

int launch_attention_forward(Storage storage, const AttentionForwardArgs& args, void* stream) {
  return dispatch_float_storage<Cuda>(storage, [&](auto type) {
    return launch_attention_forward<typename decltype(type)::type>(args, stream);
  });
}

int launch_attention_backward(Storage storage, const AttentionBackwardArgs& args, void* stream) {
  return dispatch_float_storage<Cuda>(storage, [&](auto type) {
    return launch_attention_backward<typename decltype(type)::type>(args, stream);
  });
}

}  // namespace fastcells::cuda
