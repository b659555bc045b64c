// The structs that pass from the module to the CUDA kernels of a cell that is compiled by itself.
// Torch-free.
#pragma once
#include "recurrent/compiled/combined_sizes.h"
#include "recurrent/elementwise/lanes.h"
#include "recurrent/rowwise/cuda/args.h"
#include "recurrent/stepwise/step_args.h"

namespace fastcells::compiled {

// The module tells it to the text that is compiled.
constexpr unsigned long long kCudaLayout =
    combined_sizes<StepForwardArgs, StepBackwardArgs, LaneForwardArgs, LaneBackwardArgs,
                   RowForwardArgs, RowBackwardArgs>();

}  // namespace fastcells::compiled
