// The fused step kernels on CUDA: one thread an element, the maths of recurrent/stepwise/step_*.h.
//
// They are bound by memory and launch latency: x_gates, h_gates and what the way back needs are
// read or written once, neighbouring threads on neighbouring addresses. Storage is T (float16 and
// bfloat16 stay the operands of the products), arithmetic and cell state float32.
#pragma once
#include <cuda_runtime.h>

#include "cuda/storage.cuh"
#include "recurrent/cuda/grid.h"
#include "recurrent/stepwise/stages.h"

namespace fastcells {

template <class Step>
__device__ __forceinline__ void run_elements(const Step& step, std::int64_t rows,
                                             std::int64_t units) {
  const std::int64_t stride = std::int64_t(gridDim.x) * kStepThreads;
  for (std::int64_t i = std::int64_t(blockIdx.x) * kStepThreads + threadIdx.x; i < rows * units;
       i += stride) {
    step(i / units, i % units);
  }
}
template <class Step>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(Step step, std::int64_t rows, std::int64_t units) {
  run_elements(step, rows, units);
}

}  // namespace fastcells
