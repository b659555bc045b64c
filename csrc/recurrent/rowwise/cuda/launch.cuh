// The launchers' bodies: storage becomes a template argument, rows a grid.
#pragma once
#include "recurrent/rowwise/cuda/backward.cuh"
#include "recurrent/rowwise/cuda/forward.cuh"
#include "recurrent/rowwise/cuda/launch.h"

namespace fastcells {

template <class Kernel, class Args>
int launch_rows(Kernel kernel, const Args& args, void* stream) {
  if (args.rows.B * args.H == 0) return cudaSuccess;
  const Grid grid = grid_of_rows(args.rows.B, args.H);
  kernel<<<grid.blocks, grid.threads, grid.shared_bytes, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

template <class Cell>
int launch_row_forward(Storage storage, const RowForwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    error = launch_rows(row_forward_kernel<Cell, decltype(types)>, args, stream);
  });
  return error;
}
template <class Cell>
int launch_row_backward(Storage storage, const RowBackwardArgs& args, void* stream) {
  int error = cudaSuccess;
  dispatch_storage<Cuda>(storage, [&](auto types) {
    error = launch_rows(row_backward_kernel<Cell, decltype(types)>, args, stream);
  });
  return error;
}

}  // namespace fastcells
