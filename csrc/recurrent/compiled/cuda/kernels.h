// The CUDA kernels of cells that were compiled by themselves (export.cuh): taken as images,
// launched by the engines. Torch-free; `stream` is a cudaStream_t.
#pragma once
#include <string>

#include "recurrent/cells/dispatch.h"
#include "recurrent/compiled/cuda/layout.h"

namespace fastcells::compiled {

// Takes the image of a cell's kernels of one storage, for GPUs of this compute capability (90 for
// 9.0); it stays loaded. Throws std::invalid_argument, which says why, where it cannot be loaded.
void take_image(CellKind kind, Storage storage, int compute, const std::string& image);
// Whether there are kernels for the current device.
bool has_image(CellKind kind, Storage storage);

// Each returns the launch's cudaError_t as int: a step, or all steps of an elementwise cell.
int launch(CellKind kind, Storage storage, const StepForwardArgs& args, void* stream);
int launch(CellKind kind, Storage storage, const StepBackwardArgs& args, void* stream);
int launch(CellKind kind, Storage storage, const LaneForwardArgs& args, void* stream);
int launch(CellKind kind, Storage storage, const LaneBackwardArgs& args, void* stream);
int launch(CellKind kind, Storage storage, const RowForwardArgs& args, void* stream);
int launch(CellKind kind, Storage storage, const RowBackwardArgs& args, void* stream);

}  // namespace fastcells::compiled
