#include "attention/engine.h"

#include <ATen/ops/empty.h>

namespace fastcells {
namespace {

at::Tensor or_absent(const at::Tensor& x, const at::Tensor& like) {
  return x.defined() ? x : at::empty({0}, like.options());
}
at::Tensor without_heads(const at::Tensor& x, const AttentionProblem& p) {
  return x.defined() && p.is_additive() ? x.squeeze(1) : x;
}
bool is_added(const AttentionProblem& p) {
  return p.mask.defined() && p.mask.scalar_type() != at::kBool;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> run_attention(const AttentionEngine& engine,
                                                             const AttentionProblem& p,
                                                             bool return_weights) {
  const AttentionOutputs out = engine.forward(p, return_weights);
  return {without_heads(out.output, p), without_heads(out.logsumexp, p),
          or_absent(without_heads(out.weights, p), p.query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> run_attention_backward(
    const AttentionEngine& engine, const AttentionProblem& p, const AttentionGradients& given,
    bool needs_mask_grad) {
  const auto grads = engine.backward(p, given, needs_mask_grad && is_added(p));
  return {grads.query, grads.key, grads.value, or_absent(grads.mask, p.query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
run_additive_attention_backward(const AttentionEngine& engine, const AttentionProblem& p,
                                const AttentionGradients& given, bool needs_mask_grad) {
  const auto grads = engine.backward(p, given, needs_mask_grad && is_added(p));
  return {without_heads(grads.query, p), without_heads(grads.key, p), without_heads(grads.value, p),
          grads.units, or_absent(without_heads(grads.mask, p), p.query)};
}

}  // namespace fastcells
