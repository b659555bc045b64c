// One attention call, checked: what the entry points of every device begin with.
#pragma once
#include <optional>

#include "attention/args.h"
#include "ops.h"

namespace fastcells {

// An additive call has one head, and its D units stand in the place of the key's width E.
struct AttentionSizes {
  int64_t B, N, Nk, Tq, Tk, E, Ev;
};

struct AttentionProblem {
  const char* op;
  AttentionSizes sizes;
  at::Tensor query, key, value;  // [B, N, Tq, E], [B, Nk, Tk, E], [B, Nk, Tk, Ev]; last stride 1
  at::Tensor units;              // [E] contiguous: the scale of an additive score; else undefined
  at::Tensor mask;  // [1|B, 1|N, 1|Tq, 1|Tk] contiguous, or undefined: bool, storage or arithmetic
  at::ScalarType mask_dtype = at::kBool;  // as the caller has it, and its gradient
  at::Tensor key_lengths;                 // [B] contiguous, or undefined
  at::Tensor seed;                        // [1], or undefined without dropout
  double scale = 1, softcap = 0, dropout_p = 0;
  int64_t left = -1, right = -1, offset = 0;

  bool is_additive() const { return units.defined(); }
  at::ScalarType arithmetic() const {
    return query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  }
};

HeadMatrix head_matrix(const at::Tensor& x);
// The problem in plain data, which lives as long as the problem does.
void set_arguments(const AttentionProblem& problem, AttentionArgs& args);

struct AttentionWindow {
  int64_t left, right, offset;
};

AttentionProblem check_attention(const char* op, const at::Tensor& query, const at::Tensor& key,
                                 const at::Tensor& value, const OptionalTensor& mask,
                                 const OptionalTensor& key_lengths, const OptionalTensor& seed,
                                 double scale, double softcap, const AttentionWindow& window,
                                 double dropout_p);
AttentionProblem check_additive_attention(const char* op, const at::Tensor& query,
                                          const at::Tensor& key, const at::Tensor& value,
                                          const at::Tensor& scale, const OptionalTensor& mask,
                                          const OptionalTensor& key_lengths,
                                          const OptionalTensor& seed, double dropout_p);

// What a way back is given besides, in the shapes of the problem (an additive call: one head).
struct AttentionGradients {
  at::Tensor output, grad_output;  // [B, N, Tq, Ev], last stride 1
  at::Tensor logsumexp;            // [B, N, Tq, 2] contiguous, arithmetic
  at::Tensor grad_weights;         // [B, N, Tq, Tk] contiguous, or undefined
};
AttentionGradients check_attention_gradients(const AttentionProblem& problem,
                                             const at::Tensor& grad_output,
                                             const OptionalTensor& grad_weights,
                                             const at::Tensor& output, const at::Tensor& logsumexp);

}  // namespace fastcells
