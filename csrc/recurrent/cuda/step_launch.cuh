// Launchers of the step kernels: storage becomes a template argument, a count of elements a grid.
#pragma once
#include "recurrent/cuda/launch.h"
#include "recurrent/cuda/step.cuh"

namespace fastcells {

// Launches steps on a stream, and keeps the first error.
struct StepRun {
  void* stream;
  int* error;

  template <class Step>
  void operator()(const Step& step, std::int64_t rows, std::int64_t units) const {
    const std::int64_t elements = rows * units;
    if (elements == 0 || *error != cudaSuccess) return;
    const Grid grid = grid_of_steps(elements);
    step_kernel<<<grid.blocks, grid.threads, 0, static_cast<cudaStream_t>(stream)>>>(step, rows,
                                                                                     units);
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
