// Step kernels that know no cell.
#include "recurrent/cuda/step_launch.cuh"

namespace fastcells {

int launch_step_forward_any(Stage stage, Storage storage, const StepForwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    run_forward_of_any_cell<decltype(types)>(stage, a, StepRun{stream, &error});
  });
  return error;
}

int launch_step_backward_any(Stage stage, Storage storage, const StepBackwardArgs& a,
                             void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    run_backward_of_any_cell<decltype(types)>(stage, a, StepRun{stream, &error});
  });
  return error;
}

}  // namespace fastcells
