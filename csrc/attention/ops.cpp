// The attention ops of every device: check, run the device's engine, return what the schema says:
// an additive call's results without the dimension of heads.
#include "ops.h"

#include "attention/cpu/engine.h"
#include "attention/problem.h"
#include "dense.h"
#include "op_scope.h"

#ifdef FASTCELLS_WITH_CUDA
#include "attention/cuda/engine.h"
#endif

namespace fastcells {
namespace {

constexpr const char* kForward = "fastcells::attention_forward";
constexpr const char* kBackward = "fastcells::attention_backward";
constexpr const char* kAdditiveForward = "fastcells::additive_attention_forward";
constexpr const char* kAdditiveBackward = "fastcells::additive_attention_backward";

const AttentionEngine& engine_of(const at::Tensor& query) {
#ifdef FASTCELLS_WITH_CUDA
  if (query.is_cuda()) return cuda::attention_engine();
#endif
  TORCH_CHECK_NOT_IMPLEMENTED(query.is_cpu(), "fastcells: no attention kernels for ",
                              query.device());
  return cpu::attention_engine();
}

at::Tensor without_heads(const at::Tensor& x) { return x.defined() ? x.squeeze(1) : x; }
bool is_added(const AttentionProblem& p) {
  return p.mask.defined() && p.mask.scalar_type() != at::kBool;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_forward(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
    double scale, double softcap, int64_t left, int64_t right, int64_t offset, double dropout_p,
    bool return_weights) {
  const OpScope scope(query);
  const AttentionProblem p = check_attention(kForward, query, key, value, mask, key_lengths, seed,
                                             scale, softcap, {left, right, offset}, dropout_p);
  const AttentionOutputs out = engine_of(query).forward(p, return_weights);
  return {out.output, out.logsumexp, or_absent(out.weights, query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
    const at::Tensor& key, const at::Tensor& value, const OptionalTensor& mask,
    const OptionalTensor& key_lengths, const OptionalTensor& seed, const at::Tensor& output,
    const at::Tensor& logsumexp, double scale, double softcap, int64_t left, int64_t right,
    int64_t offset, double dropout_p, bool needs_mask_grad) {
  const OpScope scope(query);
  const AttentionProblem p = check_attention(kBackward, query, key, value, mask, key_lengths, seed,
                                             scale, softcap, {left, right, offset}, dropout_p);
  const AttentionInputGradients grads = engine_of(query).backward(
      p, check_attention_gradients(p, grad_output, grad_weights, output, logsumexp),
      needs_mask_grad && is_added(p));
  return {grads.query, grads.key, grads.value, or_absent(grads.mask, query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> additive_attention_forward(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& scale, const OptionalTensor& mask, const OptionalTensor& key_lengths,
    const OptionalTensor& seed, double dropout_p, bool return_weights) {
  const OpScope scope(query);
  const AttentionProblem p = check_additive_attention(kAdditiveForward, query, key, value, scale,
                                                      mask, key_lengths, seed, dropout_p);
  const AttentionOutputs out = engine_of(query).forward(p, return_weights);
  return {without_heads(out.output), without_heads(out.logsumexp),
          or_absent(without_heads(out.weights), query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> additive_attention_backward(
    const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
    const at::Tensor& key, const at::Tensor& value, const at::Tensor& scale,
    const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
    const at::Tensor& output, const at::Tensor& logsumexp, double dropout_p, bool needs_mask_grad) {
  const OpScope scope(query);
  const AttentionProblem p = check_additive_attention(kAdditiveBackward, query, key, value, scale,
                                                      mask, key_lengths, seed, dropout_p);
  const AttentionInputGradients grads = engine_of(query).backward(
      p, check_attention_gradients(p, grad_output, grad_weights, output, logsumexp),
      needs_mask_grad && is_added(p));
  return {without_heads(grads.query), without_heads(grads.key), without_heads(grads.value),
          grads.units, or_absent(without_heads(grads.mask), query)};
}

}  // namespace fastcells
