// Launchers of the step kernels: storage becomes a template argument, a count of elements a grid.
#pragma once
#include "recurrent/cuda/launch.h"
#include "recurrent/cuda/step.cuh"

namespace fastcells {

constexpr std::int64_t kMaxBlocks = 65536;  // beyond, a thread takes more than one element

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
