// What the CUDA text of a cell that is compiled by itself includes in front of the cell's struct
// (fastcells/equations/nvrtc.py). Behind the struct stand `using Own = KernelsOf<cell, types>` and
// entries.cuh.
//
// Compiled by NVRTC, which has no header of the standard library, by nvcc, and under the emulator.
#pragma once
#ifndef FASTCELLS_LISTS
#define FASTCELLS_LISTS "recurrent/compiled/no_cells.h"  // none of the built-in cells
#endif
#include "math/elementary.h"
#include "recurrent/compiled/cuda/layout.h"
#include "recurrent/cuda/step.cuh"
#include "recurrent/elementwise/cuda/lanes.cuh"
#include "recurrent/rowwise/cuda/backward.cuh"
#include "recurrent/rowwise/cuda/forward.cuh"

namespace fastcells::compiled {

// The kernels of a cell's family: arguments, threads of a block, and what a thread does.
template <class Cell, class Types>
struct DenseKernels {
  using ForwardArgs = StepForwardArgs;
  using BackwardArgs = StepBackwardArgs;
  static constexpr int kThreads = kStepThreads;

  FC_DEVICE static void forward(const ForwardArgs& a) {
    run_elements(ForwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
  FC_DEVICE static void backward(const BackwardArgs& a) {
    run_elements(BackwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
};
template <class Cell, class Types>
struct ElementwiseKernels {
  using ForwardArgs = LaneForwardArgs;
  using BackwardArgs = LaneBackwardArgs;
  static constexpr int kThreads = kLaneThreads;

  FC_DEVICE static void forward(const ForwardArgs& a) {
    run_lane(ForwardLane<Cell, Types>(a), a.rows.B, a.H);
  }
  FC_DEVICE static void backward(const BackwardArgs& a) {
    run_lane(BackwardLane<Cell, Types>(a), a.rows.B, a.H);
  }
};
template <class Cell, class Types>
struct RowKernels {
  using ForwardArgs = RowForwardArgs;
  using BackwardArgs = RowBackwardArgs;
  static constexpr int kThreads = kMostRowThreads;

  FC_DEVICE static void forward(const ForwardArgs& a) {
    RowForward<Cell, Types>(a, blockIdx.x).run();
  }
  FC_DEVICE static void backward(const BackwardArgs& a) {
    RowBackward<Cell, Types>(a, blockIdx.x).run();
  }
};

template <class Cell, class Types>
constexpr auto kernels_of() {
  if constexpr (requires { Cell::kReadsInput; }) {
    return TypeTag<ElementwiseKernels<Cell, Types>>{};
  } else if constexpr (requires { Cell::kWholeRows; }) {
    return TypeTag<RowKernels<Cell, Types>>{};
  } else {
    return TypeTag<DenseKernels<Cell, Types>>{};
  }
}
template <class Cell, class Types>
using KernelsOf = typename decltype(kernels_of<Cell, Types>())::type;

}  // namespace fastcells::compiled
