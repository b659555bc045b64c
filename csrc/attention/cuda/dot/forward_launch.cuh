// Launchers of the kernels forward, for one type of storage.
#pragma once
#include "attention/cuda/dot/forward.cuh"
#include "attention/cuda/dot/grid.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells::cuda {

template <class T>
int launch_attention_forward(const AttentionForwardArgs& args, void* stream) {
  return dispatch_width(args, [&](auto width) {
    using Traits = AttentionForwardTraits<T, width.value>;
    const std::int64_t heads = args.B * args.N;
    const cudaError_t error =
        launch_blocks(attention_forward_kernel<Traits>, heads * tile_count(args.Tq, Traits::kOwn),
                      Traits::kThreads, attention_forward_shared<Traits>(), args, stream);
    if (error != cudaSuccess || !args.weights) return error;
    AttentionWeightsArgs again{args, args.logsumexp, args.weights, nullptr, nullptr};
    using Again = AttentionWeightsTraits<T, width.value>;
    return launch_blocks(attention_weights_kernel<Again>, heads * tile_count(args.Tq, Again::kOwn),
                         Again::kThreads, attention_weights_shared<Again>(), again, stream);
  });
}

}  // namespace fastcells::cuda
