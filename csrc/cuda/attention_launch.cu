// The launchers of attention_launch.h: storage becomes a type.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda/attention_typed.h"

namespace fastcells::cuda {

int launch_attention_forward(Storage storage, const AttentionForwardArgs& args, void* stream) {
  switch (storage) {
    case Storage::kFloat32: return launch_attention_forward<float>(args, stream);
    case Storage::kFloat16: return launch_attention_forward<__half>(args, stream);
    case Storage::kBFloat16: return launch_attention_forward<__nv_bfloat16>(args, stream);
    case Storage::kFloat64: break;
  }
  return cudaErrorInvalidValue;
}

int launch_attention_backward(Storage storage, const AttentionBackwardArgs& args, void* stream) {
  switch (storage) {
    case Storage::kFloat32: return launch_attention_backward<float>(args, stream);
    case Storage::kFloat16: return launch_attention_backward<__half>(args, stream);
    case Storage::kBFloat16: return launch_attention_backward<__nv_bfloat16>(args, stream);
    case Storage::kFloat64: break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastcells::cuda
