// Launchers of the kernels of layers that look at whole rows: the bridge from the engine (.cpp) to
// the .cu files. Torch-free; `stream` is a cudaStream_t. Each returns the launch's cudaError_t as
// int.
#pragma once
#include "recurrent/cells/dispatch.h"
#include "recurrent/rowwise/cuda/args.h"

namespace fastcells {

// Before the first step, and after the last one on the way back.
int launch_row_start(Storage storage, const RowForwardArgs& args, void* stream);
int launch_row_finish(Storage storage, const RowBackwardArgs& args, void* stream);

// A step of one cell; instantiated in one .cu per family of cells.
template <class Cell>
int launch_row_forward(Storage storage, const RowForwardArgs& args, void* stream);
template <class Cell>
int launch_row_backward(Storage storage, const RowBackwardArgs& args, void* stream);

}  // namespace fastcells
