// Launchers of the sequence kernels: a plan becomes a choice of template and a launch.
#pragma once
#include "cuda/launch.h"
#include "cuda/sequence_backward.cuh"
#include "cuda/sequence_forward.cuh"

namespace fastcells {

constexpr int kPortableCluster = 8;  // blocks that a cluster may have without being asked for more

template <class Args>
cudaError_t launch_planned(void (*kernel)(Args), const cuda::Plan& plan, int directions,
                           const Args& args, void* stream) {
  const auto shared = static_cast<int>(plan.shared_bytes);
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error == cudaSuccess && plan.blocks > kPortableCluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(plan.blocks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(plan.slices * plan.blocks), static_cast<unsigned>(directions));
  config.blockDim = dim3(static_cast<unsigned>(plan.warps * kWarpLanes));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster, config.numAttrs = plan.tier == cuda::Tier::kCluster ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args);
}

// Calls f(TypeTag<T>, is_cluster), the latter as a constant.
template <class F>
int dispatch_plan(Storage storage, const cuda::Plan& plan, const F& f) {
  const auto with_type = [&](auto type) -> cudaError_t {
    if (plan.tier == cuda::Tier::kCluster) return f(type, std::true_type{});
    return f(type, std::false_type{});
  };
  return storage == Storage::kFloat16 ? with_type(TypeTag<__half>{})
                                      : with_type(TypeTag<__nv_bfloat16>{});
}

template <class Cell>
int launch_sequence_forward(Storage storage, const cuda::Plan& plan, int directions,
                            const SequenceForwardArgs& args, void* stream) {
  constexpr int kCached = cuda::cached_steps(SequenceTile<Cell>::kTiles);
  return dispatch_plan(storage, plan, [&](auto type, auto is_cluster) {
    using T = typename decltype(type)::type;
    return launch_planned(
        sequence_forward_kernel<Cell, T, cuda::kBatchTiles, kCached, is_cluster.value>, plan,
        directions, args, stream);
  });
}

template <class Cell>
int launch_sequence_backward(Storage storage, const cuda::Plan& plan, int directions,
                             const SequenceBackwardArgs& args, void* stream) {
  constexpr int kCached = cuda::cached_steps(1);
  return dispatch_plan(storage, plan, [&](auto type, auto is_cluster) {
    using T = typename decltype(type)::type;
    return launch_planned(
        sequence_backward_kernel<Cell, T, cuda::kBatchTiles, kCached, is_cluster.value>, plan,
        directions, args, stream);
  });
}

}  // namespace fastcells
