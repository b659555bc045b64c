// Step kernels that know no cell.
#include <algorithm>

#include "recurrent/cuda/step_launch.cuh"

namespace fastcells {

int launch_step_forward_any(Stage stage, Storage storage, const StepForwardArgs& a, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    using Types = decltype(types);
    if (stage == Stage::kStart) {
      error = launch_step(StartStep<Types>{a}, a.rows.B, std::max(a.P, a.H), stream);
    } else {
      error = launch_step(ProjectForwardStep<Types>{a}, a.rows.B, a.P, stream);
    }
  });
  return error;
}

int launch_step_backward_any(Stage stage, Storage storage, const StepBackwardArgs& a,
                             void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    using Types = decltype(types);
    if (stage == Stage::kPrevious) {
      error = launch_step(PreviousStep<Types>{a}, a.rows.T * a.rows.B, a.P, stream);
    } else if (stage == Stage::kProjectBackward) {
      error = launch_step(ProjectBackwardStep<Types>{a}, a.rows.B, a.P, stream);
    } else {
      error = launch_step(FinishStep<Types>{a}, a.rows.B, std::max(a.P, a.H), stream);
    }
  });
  return error;
}

}  // namespace fastcells
