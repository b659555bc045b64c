// Launchers of the sequence kernels: a plan becomes a choice of template and a launch.
#pragma once
#include "cuda/storage.cuh"
#include "recurrent/cuda/launch.h"
#include "recurrent/cuda/sequence_backward.cuh"
#include "recurrent/cuda/sequence_forward.cuh"

namespace fastcells {

constexpr int kPortableCluster = 8;  // blocks that a cluster may have without being asked for more

template <class Args>
cudaError_t launch_planned(void (*kernel)(Args), const cuda::Plan& plan, int directions,
                           const Args& args, void* stream) {
  const auto shared = static_cast<int>(plan.shared_bytes);
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error == cudaSuccess && plan.tier == Tier::kCluster && plan.blocks > kPortableCluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error != cudaSuccess) return error;
  const bool is_grid = plan.tier == Tier::kGrid;
  cudaLaunchAttribute attribute{};
  if (is_grid) {  // all blocks run at once, or the launch fails: they wait for each other
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  } else {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(plan.blocks), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(is_grid ? plan.blocks : plan.slices * plan.blocks),
                        static_cast<unsigned>(directions));
  config.blockDim =
      dim3(static_cast<unsigned>(plan.unit_warps * kWarpLanes), static_cast<unsigned>(plan.parts));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute, config.numAttrs = plan.tier == Tier::kBlock ? 0 : 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

template <Tier kTier_, Exchange kExchange_ = Exchange::kCounters>
struct TierTag {
  static constexpr Tier kTier = kTier_;
  static constexpr Exchange kExchange = kExchange_;
};

// Calls f(TypeTag<T>, TierTag<tier, exchange>).
template <class F>
int dispatch_plan(Storage storage, const cuda::Plan& plan, const F& f) {
  return dispatch_float_storage<Cuda>(storage, [&](auto type) -> cudaError_t {
    if (plan.tier == Tier::kCluster && plan.exchange == Exchange::kLines) {
      return f(type, TierTag<Tier::kCluster, Exchange::kLines>{});
    }
    if (plan.tier == Tier::kCluster) return f(type, TierTag<Tier::kCluster>{});
    if (plan.tier == Tier::kGrid && plan.exchange == Exchange::kPackets) {
      return f(type, TierTag<Tier::kGrid, Exchange::kPackets>{});
    }
    if (plan.tier == Tier::kGrid) return f(type, TierTag<Tier::kGrid>{});
    return f(type, TierTag<Tier::kBlock>{});
  });
}

// The kernels that a plan of a tier means.
template <class Cell, class T, Tier tier, Exchange exchange = Exchange::kCounters>
using PlannedForward = ForwardTraits<Cell, T, tier, cuda::batch_tiles(tier, false),
                                     cuda::cached_steps(tier, cuda::forward_tiles(Cell::kGates),
                                                        Cell::kGates, sizeof(T), exchange),
                                     exchange>;
template <class Cell, class T, Tier tier, Exchange exchange = Exchange::kCounters>
using PlannedBackward =
    BackwardTraits<Cell, T, tier, cuda::batch_tiles(tier, true),
                   cuda::cached_steps(tier, 1, Cell::kGates, sizeof(T), exchange), exchange>;

template <class Cell>
int launch_sequence_forward(Storage storage, const cuda::Plan& plan, int directions,
                            const SequenceForwardArgs& args, void* stream) {
  return dispatch_plan(storage, plan, [&](auto type, auto tier) {
    using T = typename decltype(type)::type;
    using Traits = PlannedForward<Cell, T, tier.kTier, tier.kExchange>;
    return launch_planned(sequence_forward_kernel<Cell, Traits>, plan, directions, args, stream);
  });
}

template <class Cell>
int launch_sequence_backward(Storage storage, const cuda::Plan& plan, int directions,
                             const SequenceBackwardArgs& args, void* stream) {
  return dispatch_plan(storage, plan, [&](auto type, auto tier) {
    using T = typename decltype(type)::type;
    using Traits = PlannedBackward<Cell, T, tier.kTier, tier.kExchange>;
    return launch_planned(sequence_backward_kernel<Cell, Traits>, plan, directions, args, stream);
  });
}

}  // namespace fastcells
