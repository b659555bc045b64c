// Launchers of the attention kernels: the bridge from the entry points (.cpp) to the .cu files.
// Torch-free, plain data; `stream` is a cudaStream_t. Each returns the first cudaError_t as int.
// Not float64. Every buffer is the caller's; what is `out` is written whole.
#pragma once
#include "attention/args.h"
#include "storage.h"

namespace fastcells::cuda {

// A is float.
struct AttentionBackwardArgs : AttentionArgs {
  HeadMatrix grad_output, output;  // T
  const void* grad_weights;        // T [B, N, Tq, Tk] or nullptr: zero
  const void* logsumexp;           // A [B, N, Tq, 2]: the forward pass's
  void* delta;                     // A [B, N, Tq] scratch
  void* d_query;                   // T [B, N, Tq, E] out
  void* d_key;                     // T [B, Nk, Tk, E] out
  void* d_value;                   // T [B, Nk, Tk, Ev] out
  void* d_mask;                    // A, shaped like the mask, out; or nullptr
};

int launch_attention_forward(Storage storage, const AttentionForwardArgs& args, void* stream);
int launch_attention_backward(Storage storage, const AttentionBackwardArgs& args, void* stream);

}  // namespace fastcells::cuda
