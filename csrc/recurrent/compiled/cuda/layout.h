// The structs that pass from the module to the CUDA kernels of a cell that is compiled by itself.
// Torch-free.
#pragma once
#include "recurrent/elementwise/lanes.h"
#include "recurrent/rowwise/cuda/args.h"
#include "recurrent/stepwise/step_args.h"

namespace fastcells::compiled {

// Differs where one of them does: the module tells it to the text that is compiled.
template <class... Struct>
constexpr unsigned long long combined_layout() {
  unsigned long long all = 0xcbf29ce484222325;  // FNV-1a
  ((all = (all ^ sizeof(Struct)) * 0x100000001b3), ...);
  return all;
}
constexpr unsigned long long kCudaLayout =
    combined_layout<StepForwardArgs, StepBackwardArgs, LaneForwardArgs, LaneBackwardArgs,
                    RowForwardArgs, RowBackwardArgs>();

}  // namespace fastcells::compiled
