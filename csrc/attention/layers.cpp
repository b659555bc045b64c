#include "attention/layers.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

namespace fastcells {
namespace {

// [1] int64 of torch's default generator, as fastcells.functional.attention.draw_seed.
at::Tensor draw_seed() { return at::randint(0, int64_t(1) << 62, {1}, at::kLong); }

bool is_probability(double p) { return p >= 0 && p <= 1; }

}  // namespace

std::vector<at::Tensor> attend_dot(AttentionTensors t, const DotCall& call, bool need_grad) {
  const int64_t rank = t.query.defined() ? t.query.dim() : 0;
  if (rank < 2 || rank > 4 || !is_probability(call.dropout_p)) return {};
  const auto leading = [&](const at::Tensor& x) { return x.sizes().slice(0, rank - 2); };
  for (const at::Tensor* x : {&t.key, &t.value}) {
    if (!x->defined() || x->dim() != rank || leading(*x) != leading(t.query)) return {};
  }
  if (t.mask.defined() && t.mask.dim() > rank) return {};
  if (t.key_lengths.defined() && (rank < 3 || t.key_lengths.dim() != 1)) return {};
  if (call.softcap && !(*call.softcap > 0)) return {};
  const int64_t width = t.query.size(-1);
  AttentionOptions options;
  options.scale = call.scale ? *call.scale : width ? std::pow(double(width), -0.5) : 1.0;
  options.softcap = call.softcap.value_or(0.0);
  options.dropout_p = call.dropout_p;
  options.window.right = call.is_causal ? 0 : -1;
  options.return_weights = call.return_weights;
  if (call.dropout_p > 0) check(t, options), t.seed = draw_seed();  // a refused call draws none
  return attend(t, options, need_grad);
}

std::vector<at::Tensor> attend_additive(AttentionTensors t, double dropout_p, bool return_weights,
                                        bool need_grad) {
  if (!t.query.defined() || !t.key.defined() || !t.value.defined() || !t.units.defined() ||
      t.query.dim() != 3 || (t.mask.defined() && t.mask.dim() > 3) || !is_probability(dropout_p)) {
    return {};
  }
  AttentionOptions options;
  options.dropout_p = dropout_p, options.return_weights = return_weights;
  if (dropout_p > 0) check(t, options), t.seed = draw_seed();
  return attend(t, options, need_grad);
}

std::vector<at::Tensor> run_self_attention(const SelfAttentionCall& c, bool need_grad) {
  const int64_t rank = c.input.defined() ? c.input.dim() : 0;
  if (rank != 2 && rank != 3) return {};
  const auto is_missing = [](const at::Tensor& x) { return !x.defined(); };
  for (const auto* list : {&c.weights, &c.biases}) {
    if (std::any_of(list->begin(), list->end(), is_missing)) return {};
  }
  at::Tensor input = c.input, exists;
  if (c.lengths.defined()) {  // what stands past a length reaches no product, nor the result
    const bool fits = rank == 3 && c.lengths.dim() == 1 && c.lengths.size(0) == input.size(0) &&
                      c.lengths.scalar_type() == at::kLong;
    if (!fits) return {};
    const at::Tensor steps = at::arange(input.size(1), c.lengths.options());
    exists = steps.lt(c.lengths.unsqueeze(1)).unsqueeze(2);
    input = at::where(exists, input, 0);
  }
  at::Tensor maps = at::linear(input, at::cat(c.weights), at::cat(c.biases));
  if (c.activation == "tanh") {
    maps = at::tanh(maps);
  } else if (c.activation == "relu") {
    maps = at::relu(maps);
  } else if (c.activation == "sigmoid") {
    maps = at::sigmoid(maps);
  } else if (c.activation != "identity") {
    return {};
  }
  const auto parts =
      maps.split_with_sizes({c.weights[0].size(0), c.weights[1].size(0), c.weights[2].size(0)}, -1);
  std::vector<at::Tensor> results;
  if (c.score != "additive") {
    const std::optional<double> scale = c.score == "dot" ? std::optional(1.0) : std::nullopt;
    const DotCall call{scale, c.softcap, c.dropout_p, c.causal, c.need_weights};
    results = attend_dot({parts[0], parts[1], parts[2], {}, {}, c.lengths, {}}, call, need_grad);
  } else {
    at::Tensor mask;
    if (c.causal) mask = at::ones({input.size(-2), input.size(-2)}, at::kBool).tril();
    const auto batched = [&](const at::Tensor& x) { return rank == 3 ? x : x.unsqueeze(0); };
    results = attend_additive(
        {batched(parts[0]), batched(parts[1]), batched(parts[2]), c.scale, mask, c.lengths, {}},
        c.dropout_p, c.need_weights, need_grad);
    if (rank == 2) {
      for (at::Tensor& x : results) x = x.squeeze(0);
    }
  }
  if (exists.defined()) {
    for (at::Tensor& x : results) x = at::where(exists, x, 0);
  }
  return results;
}

}  // namespace fastcells
