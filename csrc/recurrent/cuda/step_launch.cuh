// Launchers of the step kernels: storage becomes a template argument, a count of elements a grid.
#pragma once
#include "recurrent/cuda/launch.h"
#include "recurrent/cuda/step.cuh"

namespace fastcells {

constexpr std::int64_t kMaxBlocks = 65536;  // beyond, a thread takes more than one element

// Launches steps on a stream, and keeps the first error.
struct StepRun {
  void* stream;
  int* error;

  template <class Step>
  void operator()(const Step& step, std::int64_t rows, std::int64_t units) const {
    const std::int64_t elements = rows * units;
    if (elements == 0 || *error != cudaSuccess) return;
    const std::int64_t wanted = (elements + kStepThreads - 1) / kStepThreads;
    const auto blocks = static_cast<unsigned>(wanted < kMaxBlocks ? wanted : kMaxBlocks);
    step_kernel<<<blocks, kStepThreads, 0, static_cast<cudaStream_t>(stream)>>>(step, rows, units);
    *error = cudaGetLastError();
  }
};

template <class Cell>
int launch_step_forward(Stage stage, Storage storage, const StepForwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    run_forward_of<Cell, decltype(types)>(stage, a, StepRun{stream, &error});
  });
  return error;
}

template <class Cell>
int launch_step_backward(Stage stage, Storage storage, const StepBackwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    run_backward_of<Cell, decltype(types)>(stage, a, StepRun{stream, &error});
  });
  return error;
}

}  // namespace fastcells
