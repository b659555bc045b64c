// Launchers of the kernels back, for one type of storage.
#pragma once
#include "attention/cuda/dot/backward.cuh"
#include "attention/cuda/dot/grid.cuh"
#include "attention/cuda/dot/mask.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells::cuda {

constexpr std::int64_t kMostDeltaBlocks = 65536;  // beyond, a warp takes more than one row

template <class T, int kWidth>
cudaError_t launch_delta(const AttentionBackwardArgs& args, void* stream) {
  const std::int64_t blocks = tile_count(args.B * args.N * args.Tq, kDeltaWarps);
  const cudaError_t error = launch_blocks(attention_delta_kernel<T>,
                                          blocks < kMostDeltaBlocks ? blocks : kMostDeltaBlocks,
                                          kDeltaWarps * kLanes, 0, args, stream);
  if (error != cudaSuccess || !args.grad_weights) return error;
  AttentionWeightsArgs again{args, args.logsumexp, nullptr, args.grad_weights, args.delta};
  using Traits = AttentionWeightsTraits<T, kWidth>;
  return launch_blocks(attention_weights_kernel<Traits>,
                       args.B * args.N * tile_count(args.Tq, Traits::kOwn), Traits::kThreads,
                       attention_weights_shared<Traits>(), again, stream);
}

template <class T>
int launch_attention_backward(const AttentionBackwardArgs& args, void* stream) {
  return dispatch_width(args, [&](auto width) {
    constexpr int kWidth = width.value;
    cudaError_t error = launch_delta<T, kWidth>(args, stream);
    if (error != cudaSuccess) return error;
    using Query = QueryGradientTraits<T, kWidth>;
    error = launch_blocks(attention_query_gradient_kernel<Query>,
                          args.B * args.N * tile_count(args.Tq, Query::kOwn), Query::kThreads,
                          BackwardShared<Query>::kEnd, args, stream);
    if (error != cudaSuccess) return error;
    using Key = KeyGradientTraits<T, kWidth>;
    error = launch_blocks(attention_key_gradient_kernel<Key>,
                          args.B * args.Nk * tile_count(args.Tk, Key::kOwn), Key::kThreads,
                          BackwardShared<Key>::kEnd, args, stream);
    if (error != cudaSuccess || !args.d_mask) return error;
    using Mask = MaskGradientTraits<T, kWidth>;
    const MaskTiles tiles = MaskTiles::of(args, Mask::kOwn, Mask::kOthers).kept(args.mask);
    return launch_blocks(attention_mask_gradient_kernel<Mask>, tiles.count(), Mask::kThreads,
                         BackwardShared<Mask>::kEnd, args, stream);
  });
}

}  // namespace fastcells::cuda
