// What every device's entry points of the attention ops do around its engine: check, run, and give
// an additive call's results without the dimension of heads.
#pragma once
#include <tuple>

#include "attention/problem.h"

namespace fastcells {

struct AttentionOutputs {
  at::Tensor output;     // [B, N, Tq, Ev]
  at::Tensor logsumexp;  // [B, N, Tq] arithmetic
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> run_attention(const AttentionEngine& engine,
                                                             const AttentionProblem& problem,
                                                             bool return_weights);
// Without the units.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> run_attention_backward(
    const AttentionEngine& engine, const AttentionProblem& problem, const AttentionGradients& given,
    bool needs_mask_grad);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
run_additive_attention_backward(const AttentionEngine& engine, const AttentionProblem& problem,
                                const AttentionGradients& given, bool needs_mask_grad);

constexpr const char* kAttentionForward = "fastcells::attention_forward";
constexpr const char* kAttentionBackward = "fastcells::attention_backward";
constexpr const char* kAdditiveForward = "fastcells::additive_attention_forward";
constexpr const char* kAdditiveBackward = "fastcells::additive_attention_backward";

}  // namespace fastcells
