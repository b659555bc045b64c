// The kernels forward, in their order, and their launcher for one type of storage.
#pragma once
#include "attention/cuda/dot/forward.cuh"
#include "attention/cuda/dot/grid.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells::cuda {

// run(blocks, threads, shared_bytes, kernel, args) runs one, or returns why not.
template <class T, int kWidth, class Run>
cudaError_t run_attention_forward(const AttentionForwardArgs& args, const Run& run) {
  using Traits = AttentionForwardTraits<T, kWidth>;
  const std::int64_t heads = args.B * args.N;
  const cudaError_t error =
      run(heads * tile_count(args.Tq, Traits::kOwn), Traits::kThreads,
          attention_forward_shared<Traits>(), attention_forward_kernel<Traits>, args);
  if (error != cudaSuccess || !args.weights) return error;
  const AttentionWeightsArgs again{args, args.logsumexp, args.weights, nullptr, nullptr};
  using Again = AttentionWeightsTraits<T, kWidth>;
  return run(heads * tile_count(args.Tq, Again::kOwn), Again::kThreads,
             attention_weights_shared<Again>(), attention_weights_kernel<Again>, again);
}

template <class T>
int launch_attention_forward(const AttentionForwardArgs& args, void* stream) {
  return dispatch_width(args, [&](auto width) {
    return run_attention_forward<T, width.value>(args, StreamBlocks{stream});
  });
}

}  // namespace fastcells::cuda
