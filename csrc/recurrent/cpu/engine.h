// The engine of the CPU: the sequence engine (recurrent/cpu/sequence.h) where it applies, else the stepwise
// one; for a single step of a row or two, the step kernels that read the weights as they lie.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "recurrent/engine.h"

namespace fastcells::cpu {

const Engine& engine();

// Which engine a call runs and with what plan, in words, and why not a faster one (or empty).
Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_projected,
               bool is_training, bool is_step);

// One step of contiguous float32 tensors, without a way back and without a look at what does not
// matter there: h' and c' (undefined for a cell without c), shaped like h. False, and nothing was
// done, for anything that is not exactly that; the op then does it, or says what is wrong.
struct StepTensors {
  const at::Tensor &input, &h, &c;  // [B, I] or [I], [B, H] or [H]; c undefined without one
  const at::Tensor &weight_ih, &weight_hh, &bias_ih, &bias_hh;  // biases may be undefined
};
bool step_at_once(const CellFacts& cell, const StepTensors& tensors, at::Tensor& h_new,
                  at::Tensor& c_new);

// All layers of a module, without a way back, as step_at_once: of plain tensors of any dtype and
// stride. No value, and nothing was done, for anything else or where tensors do not fit together.
struct StackTensors {
  at::Tensor input;            // [T, B, I]
  at::Tensor h_0, c_0;         // [L*D, B, P or H] or undefined: zeros
  at::Tensor lengths, resets;  // [B], [T, B] or undefined
  std::vector<std::vector<at::Tensor>>
      weights;  // L lists of D * (w_ih, w_hh[, b_ih, b_hh][, w_hr])
};
std::optional<LayerOutputs> stack_at_once(const CellFacts& cell, int64_t directions,
                                          const StackTensors& tensors);

}  // namespace fastcells::cpu
