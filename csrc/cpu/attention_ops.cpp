// Entry points of the attention ops on the CPU.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>

#include "cpu/attention.h"

namespace fastcells {
namespace {

constexpr const char* kForward = "fastcells::attention_forward";
constexpr const char* kBackward = "fastcells::attention_backward";
constexpr const char* kAdditiveForward = "fastcells::additive_attention_forward";
constexpr const char* kAdditiveBackward = "fastcells::additive_attention_backward";

at::Tensor or_absent(const at::Tensor& x, const at::Tensor& like) {
  return x.defined() ? x : at::empty({0}, like.options());
}
bool is_added(const AttentionProblem& p) {
  return p.mask.defined() && p.mask.scalar_type() != at::kBool;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_forward_cpu(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
    double scale, double softcap, int64_t left, int64_t right, int64_t offset, double dropout_p,
    bool return_weights) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const AttentionProblem p = check_attention(kForward, query, key, value, mask, key_lengths, seed,
                                             scale, softcap, {left, right, offset}, dropout_p);
  const auto out = cpu::attention_forward(p, return_weights);
  return {out.output, out.logsumexp, or_absent(out.weights, query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward_cpu(
    const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
    const at::Tensor& key, const at::Tensor& value, const OptionalTensor& mask,
    const OptionalTensor& key_lengths, const OptionalTensor& seed, const at::Tensor& output,
    const at::Tensor& logsumexp, double scale, double softcap, int64_t left, int64_t right,
    int64_t offset, double dropout_p, bool needs_mask_grad) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const AttentionProblem p = check_attention(kBackward, query, key, value, mask, key_lengths, seed,
                                             scale, softcap, {left, right, offset}, dropout_p);
  const auto given = check_attention_gradients(p, grad_output, grad_weights, output, logsumexp);
  const auto grads = cpu::attention_backward(p, given, needs_mask_grad && is_added(p));
  return {grads.query, grads.key, grads.value, or_absent(grads.mask, query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> additive_attention_forward_cpu(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& scale, const OptionalTensor& mask, const OptionalTensor& key_lengths,
    const OptionalTensor& seed, double dropout_p, bool return_weights) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const AttentionProblem p = check_additive_attention(kAdditiveForward, query, key, value, scale,
                                                      mask, key_lengths, seed, dropout_p);
  const auto out = cpu::attention_forward(p, return_weights);
  return {out.output.squeeze(1), out.logsumexp.squeeze(1),
          return_weights ? out.weights.squeeze(1) : or_absent({}, query)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
additive_attention_backward_cpu(const at::Tensor& grad_output, const OptionalTensor& grad_weights,
                                const at::Tensor& query, const at::Tensor& key,
                                const at::Tensor& value, const at::Tensor& scale,
                                const OptionalTensor& mask, const OptionalTensor& key_lengths,
                                const OptionalTensor& seed, const at::Tensor& output,
                                const at::Tensor& logsumexp, double dropout_p,
                                bool needs_mask_grad) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const AttentionProblem p = check_additive_attention(kAdditiveBackward, query, key, value, scale,
                                                      mask, key_lengths, seed, dropout_p);
  const auto given = check_attention_gradients(p, grad_output, grad_weights, output, logsumexp);
  const auto grads = cpu::attention_backward(p, given, needs_mask_grad && is_added(p));
  return {grads.query.squeeze(1), grads.key.squeeze(1), grads.value.squeeze(1), grads.units,
          grads.mask.defined() ? grads.mask.squeeze(1) : or_absent({}, query)};
}

}  // namespace fastcells
