// What is before the first step and after the last one, for every cell.
#include "recurrent/cuda/step_launch.cuh"
#include "recurrent/rowwise/cuda/backward.cuh"
#include "recurrent/rowwise/cuda/forward.cuh"
#include "recurrent/rowwise/cuda/launch.h"

namespace fastcells {

int launch_row_start(Storage storage, const RowForwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    StepRun{stream, &error}(RowStart<decltype(types)>{args}, args.rows.B, args.H);
  });
  return error;
}
int launch_row_finish(Storage storage, const RowBackwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    StepRun{stream, &error}(RowFinish<decltype(types)>{args}, args.rows.B, args.H);
  });
  return error;
}

}  // namespace fastcells
