// The kernels back, in their order, and their launcher for one type of storage.
#pragma once
#include "attention/cuda/dot/backward.cuh"
#include "attention/cuda/dot/grid.cuh"
#include "attention/cuda/dot/mask.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells::cuda {

constexpr std::int64_t kMostDeltaBlocks = 65536;  // beyond, a warp takes more than one row

template <class T, int kWidth, class Run>
cudaError_t run_delta(const AttentionBackwardArgs& args, const Run& run) {
  const std::int64_t blocks = tile_count(args.B * args.N * args.Tq, kDeltaWarps);
  const cudaError_t error = run(blocks < kMostDeltaBlocks ? blocks : kMostDeltaBlocks,
                                kDeltaWarps * kLanes, 0, attention_delta_kernel<T>, args);
  if (error != cudaSuccess || !args.grad_weights) return error;
  const AttentionWeightsArgs again{args, args.logsumexp, nullptr, args.grad_weights, args.delta};
  using Traits = AttentionWeightsTraits<T, kWidth>;
  return run(args.B * args.N * tile_count(args.Tq, Traits::kOwn), Traits::kThreads,
             attention_weights_shared<Traits>(), attention_weights_kernel<Traits>, again);
}

// run(blocks, threads, shared_bytes, kernel, args) runs one, or returns why not.
template <class T, int kWidth, class Run>
cudaError_t run_attention_backward(const AttentionBackwardArgs& args, const Run& run) {
  cudaError_t error = run_delta<T, kWidth>(args, run);
  if (error != cudaSuccess) return error;
  using Query = QueryGradientTraits<T, kWidth>;
  error = run(args.B * args.N * tile_count(args.Tq, Query::kOwn), Query::kThreads,
              BackwardShared<Query>::kEnd, attention_query_gradient_kernel<Query>, args);
  if (error != cudaSuccess) return error;
  using Key = KeyGradientTraits<T, kWidth>;
  error = run(args.B * args.Nk * tile_count(args.Tk, Key::kOwn), Key::kThreads,
              BackwardShared<Key>::kEnd, attention_key_gradient_kernel<Key>, args);
  if (error != cudaSuccess || !args.d_mask) return error;
  using Mask = MaskGradientTraits<T, kWidth>;
  const MaskTiles tiles = MaskTiles::of(args, Mask::kOwn, Mask::kOthers).kept(args.mask);
  return run(tiles.count(), Mask::kThreads, BackwardShared<Mask>::kEnd,
             attention_mask_gradient_kernel<Mask>, args);
}

template <class T>
int launch_attention_backward(const AttentionBackwardArgs& args, void* stream) {
  return dispatch_width(args, [&](auto width) {
    return run_attention_backward<T, width.value>(args, StreamBlocks{stream});
  });
}

}  // namespace fastcells::cuda
