// Launchers of the kernels of elementwise cells: the bridge from the engine (.cpp) to the .cu
// files. Torch-free; `stream` is a cudaStream_t. Each returns the launch's cudaError_t as int.
#pragma once
#include "recurrent/elementwise/lanes.h"

namespace fastcells {

template <class Cell>
int launch_lanes_forward(Storage storage, const LaneForwardArgs& args, void* stream);
template <class Cell>
int launch_lanes_backward(Storage storage, const LaneBackwardArgs& args, void* stream);

}  // namespace fastcells
