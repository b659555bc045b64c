// The fused step kernels on CUDA: one thread an element, the maths of recurrent/step_*.h.
//
// They are bound by memory and launch latency: x_gates, h_gates and what the way back needs are
// read or written once, neighbouring threads on neighbouring addresses. Storage is T (float16 and
// bfloat16 stay the operands of the products), arithmetic and cell state float32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda/launch.h"
#include "recurrent/step_backward.h"
#include "recurrent/step_forward.h"

namespace fastcells {

struct Cuda {
  using Half = __half;
  using BFloat16 = __nv_bfloat16;
  template <class T>
  using Operand = T;
};

constexpr int kStepThreads = 256;           // 8 warps; the kernels take at most 48 registers
constexpr std::int64_t kMaxBlocks = 65536;  // beyond, a thread takes more than one element

template <class Step>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(Step step, std::int64_t rows, std::int64_t units) {
  const std::int64_t stride = std::int64_t(gridDim.x) * kStepThreads;
  for (std::int64_t i = std::int64_t(blockIdx.x) * kStepThreads + threadIdx.x; i < rows * units;
       i += stride) {
    step(i / units, i % units);
  }
}

template <class Step>
int launch_step(const Step& step, std::int64_t rows, std::int64_t units, void* stream) {
  const std::int64_t elements = rows * units;
  if (elements == 0) return cudaSuccess;
  const std::int64_t wanted = (elements + kStepThreads - 1) / kStepThreads;
  const auto blocks = static_cast<unsigned>(wanted < kMaxBlocks ? wanted : kMaxBlocks);
  step_kernel<<<blocks, kStepThreads, 0, static_cast<cudaStream_t>(stream)>>>(step, rows, units);
  return cudaGetLastError();
}

template <class Cell>
int launch_step_forward(Stage stage, Storage storage, const StepForwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    using Types = decltype(types);
    if (stage == Stage::kForward) {
      error = launch_step(ForwardStep<Cell, Types>{a}, a.rows.B, a.H, stream);
    } else if constexpr (Cell::kTwoProducts) {
      error = launch_step(ResetForwardStep<Cell, Types>{a}, a.rows.B, a.H, stream);
    }
  });
  return error;
}

template <class Cell>
int launch_step_backward(Stage stage, Storage storage, const StepBackwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    using Types = decltype(types);
    if (stage == Stage::kBackward) {
      error = launch_step(BackwardStep<Cell, Types>{a}, a.rows.B, a.H, stream);
    } else if constexpr (Cell::kTwoProducts) {
      error = launch_step(ResetBackwardStep<Cell, Types>{a}, a.rows.B, a.H, stream);
    }
  });
  return error;
}

}  // namespace fastcells
