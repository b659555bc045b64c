// The launchers' bodies: storage becomes a template argument, lanes a grid.
#pragma once
#include "recurrent/elementwise/cuda/lanes.cuh"
#include "recurrent/elementwise/cuda/launch.h"

namespace fastcells {

template <class OneLane>
int launch_lanes(const OneLane& lane, void* stream) {
  const std::int64_t rows = lane.a.rows.B, units = lane.a.H;
  const Grid grid = grid_of_lanes(rows * units);
  if (grid.blocks == 0) return cudaSuccess;
  lane_kernel<<<grid.blocks, grid.threads, 0, static_cast<cudaStream_t>(stream)>>>(lane, rows,
                                                                                   units);
  return cudaGetLastError();
}

template <class Cell>
int launch_lanes_forward(Storage storage, const LaneForwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    error = launch_lanes(ForwardLane<Cell, decltype(types)>(args), stream);
  });
  return error;
}
template <class Cell>
int launch_lanes_backward(Storage storage, const LaneBackwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    error = launch_lanes(BackwardLane<Cell, decltype(types)>(args), stream);
  });
  return error;
}

}  // namespace fastcells
