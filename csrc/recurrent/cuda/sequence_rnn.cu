// Sequence kernels of the Elman cells.
#include "recurrent/cuda/sequence.cuh"

namespace fastcells {

template int launch_sequence_forward<RNN<Tanh>>(Storage, const cuda::Plan&, int,
                                                const SequenceForwardArgs&, void*);
template int launch_sequence_backward<RNN<Tanh>>(Storage, const cuda::Plan&, int,
                                                 const SequenceBackwardArgs&, void*);
template int launch_sequence_forward<RNN<ReLU>>(Storage, const cuda::Plan&, int,
                                                const SequenceForwardArgs&, void*);
template int launch_sequence_backward<RNN<ReLU>>(Storage, const cuda::Plan&, int,
                                                 const SequenceBackwardArgs&, void*);

int largest_cluster(int shared_bytes) {
  const auto kernel =
      sequence_forward_kernel<RNN<Tanh>, PlannedForward<RNN<Tanh>, float, Tier::kCluster>>;
  cudaFuncAttributes built{};
  int largest = 1;
  const auto allows = [&](cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(kernel, attribute, value) == cudaSuccess;
  };
  // What the driver has translated from the PTX of GPUs without clusters is empty.
  if (cudaFuncGetAttributes(&built, kernel) == cudaSuccess && built.ptxVersion >= 90 &&
      allows(cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) &&
      allows(cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) {
    for (int blocks = 2; blocks <= cuda::kMostCluster; blocks *= 2) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(blocks));
      config.blockDim = dim3(cuda::kMostWarps * kWarpLanes);
      config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
      config.attrs = &attribute, config.numAttrs = 1;
      int clusters = 0;
      if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) break;
      if (clusters > 0) largest = blocks;
    }
  }
  cudaGetLastError();  // a refusal here is an answer, and no error of the next launch
  return largest;
}

}  // namespace fastcells
