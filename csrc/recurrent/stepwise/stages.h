// From a stage to its step struct, and over how many rows and units it runs: once for every device.
// `run(step, rows, units)` is the device's loop or launch. Torch-free.
#pragma once
#include "recurrent/stepwise/step_backward.h"
#include "recurrent/stepwise/step_forward.h"

namespace fastcells {

// Whether a stage is the same for every cell.
constexpr bool knows_no_cell(Stage stage) {
  return stage != Stage::kForward && stage != Stage::kResetForward && stage != Stage::kBackward &&
         stage != Stage::kResetBackward;
}

template <class Types, class Run>
void run_forward_of_any_cell(Stage stage, const StepForwardArgs& a, const Run& run) {
  if (stage == Stage::kStart) {
    run(StartStep<Types>{a}, a.rows.B, a.P > a.H ? a.P : a.H);
  } else {
    run(ProjectForwardStep<Types>{a}, a.rows.B, a.P);
  }
}

template <class Cell, class Types, class Run>
void run_forward_of(Stage stage, const StepForwardArgs& a, const Run& run) {
  if (stage == Stage::kForward) {
    run(ForwardStep<Cell, Types>{a}, a.rows.B, a.H);
  } else if constexpr (Cell::kTwoProducts) {
    run(ResetForwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
}

template <class Types, class Run>
void run_backward_of_any_cell(Stage stage, const StepBackwardArgs& a, const Run& run) {
  if (stage == Stage::kPrevious) {
    run(PreviousStep<Types>{a}, a.rows.T * a.rows.B, a.P);
  } else if (stage == Stage::kProjectBackward) {
    run(ProjectBackwardStep<Types>{a}, a.rows.B, a.P);
  } else {
    run(FinishStep<Types>{a}, a.rows.B, a.P > a.H ? a.P : a.H);
  }
}

template <class Cell, class Types, class Run>
void run_backward_of(Stage stage, const StepBackwardArgs& a, const Run& run) {
  if (stage == Stage::kBackward) {
    run(BackwardStep<Cell, Types>{a}, a.rows.B, a.H);
  } else if constexpr (Cell::kTwoProducts) {
    run(ResetBackwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
}

}  // namespace fastcells
