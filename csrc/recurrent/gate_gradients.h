// What follows from the gates' gradients of one direction by large products over all steps.
#pragma once
#include <vector>

#include "recurrent/engine.h"

namespace fastcells {

struct GateGradients {
  at::Tensor dx_gates, dg_gates;  // operand [T*B, G*H]
  at::Tensor h_previous;          // operand [T*B, P]: the h that entered each step

  // [T*B, I] arithmetic.
  at::Tensor d_input(const Layer& layer, int64_t direction) const;
  // Of those weights that are needed, W_hr's excepted, in storage. x: operand [T*B, I].
  DirectionWeights d_weights(const Layer& layer, const PerWeight<bool>& needs,
                             const at::Tensor& x) const;
};

class StepKernels;  // recurrent/stepwise/stepwise.h

// All gradients but those of the initial states, from the gates' of each direction. Fills in
// h_previous.
InputGradients collect_gate_gradients(const Layer& layer, const LayerOutputs& outputs,
                                      const LayerNeeds& needs, const StepKernels& kernels,
                                      std::vector<GateGradients>& gates);

}  // namespace fastcells
