// The kernels of elementwise cells on CUDA: a thread is a lane, the maths of elementwise/lanes.h.
//
// A step costs a thread its cell and a few loads; what counts is that loads are under way and that
// every multiprocessor has lanes, hence small blocks.
#pragma once
#include <cuda_runtime.h>

#include "cuda/storage.cuh"
#include "recurrent/cuda/grid.h"
#include "recurrent/elementwise/lanes.h"

namespace fastcells {

template <class OneLane>
__device__ __forceinline__ void run_lane(const OneLane& lane, std::int64_t rows,
                                         std::int64_t units) {
  const std::int64_t i = std::int64_t(blockIdx.x) * kLaneThreads + threadIdx.x;
  if (i < rows * units) lane(i / units, i % units);
}
template <class OneLane>
__global__ void __launch_bounds__(kLaneThreads)
    lane_kernel(OneLane lane, std::int64_t rows, std::int64_t units) {
  run_lane(lane, rows, units);
}

}  // namespace fastcells
