// The attention engine of the CPU: cuts a checked call into tasks and runs them on a team of
// threads with the kernels of an instruction set (cpu/isa/attention_args.h).
#pragma once
#include <string>

#include "attention/problem.h"

namespace fastcells::cpu {

struct AttentionOutputs {
  at::Tensor output;     // [B, N, Tq, Ev]
  at::Tensor logsumexp;  // [B, N, Tq] arithmetic
  at::Tensor weights;    // [B, N, Tq, Tk], or undefined
};
AttentionOutputs attention_forward(const AttentionProblem& problem, bool wants_weights);

struct AttentionInputGradients {
  at::Tensor query, key, value;  // as the problem's
  at::Tensor units;              // [E], or undefined
  at::Tensor mask;               // shaped like the mask, or undefined
};
AttentionInputGradients attention_backward(const AttentionProblem& problem,
                                           const AttentionGradients& given, bool wants_mask);

}  // namespace fastcells::cpu
