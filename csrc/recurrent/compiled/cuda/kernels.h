// The CUDA kernels of cells that were compiled by themselves (export.cuh): taken as images,
// launched by the engines. Torch-free; `stream` is a cudaStream_t.
#pragma once
#include <string>
#include <type_traits>

#include "recurrent/cells/dispatch.h"
#include "recurrent/compiled/cuda/layout.h"
#include "recurrent/cuda/grid.h"

namespace fastcells::compiled {

// Takes the image of a cell's kernels of one storage, for GPUs of this compute capability (90 for
// 9.0); it stays loaded. Throws std::invalid_argument, which says why, where it cannot be loaded.
void take_image(CellKind kind, Storage storage, int compute, const std::string& image);
// Whether there are kernels for the current device.
bool has_image(CellKind kind, Storage storage);

enum class Way { kForward, kBackward };

// The kernel of that way, on arguments of the cell's family; the launch's cudaError_t as int.
int launch_kernel(CellKind kind, Storage storage, Way way, Grid grid, const void* args,
                  void* stream);

// What the arguments tell of their kernel.
template <class Args>
constexpr Way way_of() {
  constexpr bool kIsBackward = std::is_same_v<Args, StepBackwardArgs> ||
                               std::is_same_v<Args, LaneBackwardArgs> ||
                               std::is_same_v<Args, RowBackwardArgs>;
  return kIsBackward ? Way::kBackward : Way::kForward;
}
template <class Args>
Grid grid_of(const Args& a) {
  if constexpr (std::is_base_of_v<LaneArgs, Args>) return grid_of_lanes(a.rows.B * a.H);
  if constexpr (std::is_base_of_v<RowStepArgs, Args>) return grid_of_rows(a.rows.B, a.H);
  return grid_of_steps(a.rows.B * a.H);
}

// A step, or all steps of an elementwise cell.
template <class Args>
int launch(CellKind kind, Storage storage, const Args& args, void* stream) {
  return launch_kernel(kind, storage, way_of<Args>(), grid_of(args), &args, stream);
}

}  // namespace fastcells::compiled
