#include "attention/cuda/engine.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sub.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "attention/cuda/additive/launch.h"
#include "attention/cuda/dot/launch.h"
#include "checks.h"

namespace fastcells::cuda {
namespace {

void check_width(const AttentionProblem& p) {
  TORCH_CHECK(
      p.is_additive() || (p.sizes.E <= kMostHeadWidthCuda && p.sizes.Ev <= kMostHeadWidthCuda),
      p.op, ": the GPU kernels take heads of width up to ", kMostHeadWidthCuda, ", got ", p.sizes.E,
      " of the keys and ", p.sizes.Ev, " of the values");
}

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
void check(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

// [B, Tq, Tk] float of an additive call.
at::Tensor score_matrix(const AttentionProblem& p) {
  return at::empty({p.sizes.B, p.sizes.Tq, p.sizes.Tk}, p.query.options().dtype(at::kFloat));
}

// [B, Nk, Tk]: keys that some query sees, as far as mask and window go; undefined without a mask.
at::Tensor seen_keys(const AttentionProblem& p) {
  if (!p.mask.defined()) return {};
  const auto& s = p.sizes;
  const bool is_bool = p.mask.scalar_type() == at::kBool;
  at::Tensor shown = is_bool ? p.mask : p.mask.ne(-std::numeric_limits<double>::infinity());
  if (p.left >= 0 || p.right >= 0) {
    const auto numbers = p.query.options().dtype(at::kLong);
    const at::Tensor own = at::add(at::arange(s.Tq, numbers), p.offset).unsqueeze(1);
    const at::Tensor from = at::sub(at::arange(s.Tk, numbers), own);
    if (p.left >= 0) shown = shown.logical_and(from.ge(-p.left));
    if (p.right >= 0) shown = shown.logical_and(from.le(p.right));
  }
  const at::Tensor of_heads = shown.any(/*dim=*/2).expand({s.B, s.N, s.Tk});
  if (s.N == s.Nk) return of_heads.contiguous();
  return of_heads.reshape({s.B, s.Nk, -1, s.Tk}).any(/*dim=*/2);
}

class CudaAttention final : public AttentionEngine {
 public:
  AttentionOutputs forward(const AttentionProblem& p, bool wants_weights) const override {
    const Storage storage = storage_of(p.op, p.query.scalar_type());
    check_width(p);
    const auto& s = p.sizes;
    const auto options = p.query.options();
    AttentionOutputs out;
    out.output = at::empty({s.B, s.N, s.Tq, s.Ev}, options);
    out.logsumexp = at::empty({s.B, s.N, s.Tq, 2}, options.dtype(at::kFloat));
    if (wants_weights) out.weights = at::empty({s.B, s.N, s.Tq, s.Tk}, options);
    AdditiveForwardArgs a{};
    set_arguments(p, a);
    const at::Tensor seen = seen_keys(p);
    a.seen = seen.defined() ? seen.const_data_ptr<bool>() : nullptr;
    a.output = out.output.mutable_data_ptr(), a.logsumexp = out.logsumexp.mutable_data_ptr();
    a.weights = wants_weights ? out.weights.mutable_data_ptr() : nullptr;
    if (!p.is_additive()) {
      check(launch_attention_forward(storage, a, stream()));
      return out;
    }
    const at::Tensor weights = score_matrix(p);
    a.signed_weights = weights.mutable_data_ptr<float>();
    check(launch_additive_forward(storage, a, stream()));
    return out;
  }

  AttentionInputGradients backward(const AttentionProblem& p, const AttentionGradients& given,
                                   bool wants_mask) const override {
    const Storage storage = storage_of(p.op, p.query.scalar_type());
    check_width(p);
    const auto& s = p.sizes;
    const auto options = p.query.options(), floats = options.dtype(at::kFloat);
    AttentionInputGradients grads;
    grads.query = at::empty({s.B, s.N, s.Tq, s.E}, options);
    grads.key = at::empty({s.B, s.Nk, s.Tk, s.E}, options);
    grads.value = at::empty({s.B, s.Nk, s.Tk, s.Ev}, options);
    if (wants_mask) grads.mask = at::empty(p.mask.sizes(), floats);
    const at::Tensor delta = at::empty({s.B, s.N, s.Tq}, floats);
    AdditiveBackwardArgs a{};
    set_arguments(p, a);
    const at::Tensor seen = seen_keys(p);
    a.seen = seen.defined() ? seen.const_data_ptr<bool>() : nullptr;
    a.grad_output = head_matrix(given.grad_output), a.output = head_matrix(given.output);
    a.grad_weights = given.grad_weights.defined() ? given.grad_weights.const_data_ptr() : nullptr;
    a.logsumexp = given.logsumexp.const_data_ptr(), a.delta = delta.mutable_data_ptr();
    a.d_query = grads.query.mutable_data_ptr(), a.d_key = grads.key.mutable_data_ptr();
    a.d_value = grads.value.mutable_data_ptr();
    a.d_mask = wants_mask ? grads.mask.mutable_data_ptr() : nullptr;
    if (p.is_additive()) {
      grads.units = additive_backward(p, storage, a);
    } else {
      check(launch_attention_backward(storage, a, stream()));
    }
    if (wants_mask) grads.mask = grads.mask.to(p.mask_dtype);
    return grads;
  }

 private:
  // The rest of an additive call's arguments; returns the gradient of the units.
  static at::Tensor additive_backward(const AttentionProblem& p, Storage storage,
                                      AdditiveBackwardArgs& a) {
    const at::Tensor weights = score_matrix(p), d_scores = score_matrix(p);
    const at::Tensor parts = at::empty({additive_parts(p.sizes.B, p.sizes.Tk), p.sizes.E},
                                       p.query.options().dtype(at::kFloat));
    a.signed_weights = weights.mutable_data_ptr<float>(), a.has_weights = false;
    a.d_scores = d_scores.mutable_data_ptr<float>(), a.d_units = parts.mutable_data_ptr<float>();
    check(launch_additive_backward(storage, a, stream()));
    return parts.sum(0).to(p.query.scalar_type());
  }
};

}  // namespace

const AttentionEngine& attention_engine() {
  static const CudaAttention engine;
  return engine;
}

}  // namespace fastcells::cuda
