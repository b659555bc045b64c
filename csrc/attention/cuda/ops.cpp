// Entry points of the attention ops on the GPU: guard the device, run.
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/cuda/CUDAGuard.h>

#include "attention/cuda/engine.h"

namespace fastcells {

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_forward_cuda(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
    double scale, double softcap, int64_t left, int64_t right, int64_t offset, double dropout_p,
    bool return_weights) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::cuda::CUDAGuard guard(query.device());
  return run_attention(cuda::attention_engine(),
                       check_attention(kAttentionForward, query, key, value, mask, key_lengths,
                                       seed, scale, softcap, {left, right, offset}, dropout_p),
                       return_weights);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward_cuda(
    const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
    const at::Tensor& key, const at::Tensor& value, const OptionalTensor& mask,
    const OptionalTensor& key_lengths, const OptionalTensor& seed, const at::Tensor& output,
    const at::Tensor& logsumexp, double scale, double softcap, int64_t left, int64_t right,
    int64_t offset, double dropout_p, bool needs_mask_grad) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::cuda::CUDAGuard guard(query.device());
  const AttentionProblem p =
      check_attention(kAttentionBackward, query, key, value, mask, key_lengths, seed, scale,
                      softcap, {left, right, offset}, dropout_p);
  return run_attention_backward(
      cuda::attention_engine(), p,
      check_attention_gradients(p, grad_output, grad_weights, output, logsumexp), needs_mask_grad);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> additive_attention_forward_cuda(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& scale, const OptionalTensor& mask, const OptionalTensor& key_lengths,
    const OptionalTensor& seed, double dropout_p, bool return_weights) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::cuda::CUDAGuard guard(query.device());
  return run_attention(cuda::attention_engine(),
                       check_additive_attention(kAdditiveForward, query, key, value, scale, mask,
                                                key_lengths, seed, dropout_p),
                       return_weights);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
additive_attention_backward_cuda(const at::Tensor& grad_output, const OptionalTensor& grad_weights,
                                 const at::Tensor& query, const at::Tensor& key,
                                 const at::Tensor& value, const at::Tensor& scale,
                                 const OptionalTensor& mask, const OptionalTensor& key_lengths,
                                 const OptionalTensor& seed, const at::Tensor& output,
                                 const at::Tensor& logsumexp, double dropout_p,
                                 bool needs_mask_grad) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::cuda::CUDAGuard guard(query.device());
  const AttentionProblem p = check_additive_attention(kAdditiveBackward, query, key, value, scale,
                                                      mask, key_lengths, seed, dropout_p);
  return run_additive_attention_backward(
      cuda::attention_engine(), p,
      check_attention_gradients(p, grad_output, grad_weights, output, logsumexp), needs_mask_grad);
}

}  // namespace fastcells
