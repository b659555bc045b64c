// What computes an attention call: the engines' common form, one a device.
#pragma once
#include "attention/problem.h"

namespace fastcells {

struct AttentionOutputs {
  at::Tensor output;     // [B, N, Tq, Ev]
  at::Tensor logsumexp;  // [B, N, Tq, 2] arithmetic: attention/args.h
  at::Tensor weights;    // [B, N, Tq, Tk], or undefined
};

struct AttentionInputGradients {
  at::Tensor query, key, value;  // as the problem's
  at::Tensor units;              // [E], or undefined
  at::Tensor mask;               // shaped like the mask, or undefined
};

// The attention of one device.
class AttentionEngine {
 public:
  virtual ~AttentionEngine() = default;
  virtual AttentionOutputs forward(const AttentionProblem& problem, bool wants_weights) const = 0;
  virtual AttentionInputGradients backward(const AttentionProblem& problem,
                                           const AttentionGradients& given,
                                           bool wants_mask) const = 0;
};

}  // namespace fastcells
