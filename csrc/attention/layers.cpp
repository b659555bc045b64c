#include "attention/layers.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <cmath>

namespace fastcells {
namespace {

// [1] int64 of torch's default generator, as fastcells.functional.attention.draw_seed.
at::Tensor draw_seed() { return at::randint(0, int64_t(1) << 62, {1}, at::kLong); }

bool is_probability(double p) { return p >= 0 && p <= 1; }

// The mask of torch.nn.MultiheadAttention as attention takes it: true attends.
at::Tensor to_attend(const at::Tensor& mask) {
  return mask.scalar_type() == at::kBool ? mask.logical_not() : mask;
}

// Both masks as one [1|B, 1|N, 1|Tq, Tk]; no value where they are not as the layer wants them, or
// would have to be added.
std::optional<at::Tensor> merged_mask(const Multihead& c, int64_t B, int64_t Tq, int64_t Tk) {
  const auto is_mask = [](const at::Tensor& x) {
    return x.scalar_type() == at::kBool || x.is_floating_point();
  };
  at::Tensor mask, padding;
  if (c.mask.defined()) {
    const bool is_matrix = c.mask.sizes() == at::IntArrayRef({Tq, Tk});
    if (!is_mask(c.mask) ||
        !(is_matrix || c.mask.sizes() == at::IntArrayRef({B * c.heads, Tq, Tk})))
      return std::nullopt;
    mask = to_attend(c.mask);
    mask = is_matrix ? mask.unsqueeze(0).unsqueeze(0) : mask.view({B, c.heads, Tq, Tk});
  }
  if (c.padding.defined()) {
    if (!is_mask(c.padding) || c.padding.sizes() != at::IntArrayRef({B, Tk})) return std::nullopt;
    padding = to_attend(c.padding).unsqueeze(1).unsqueeze(1);
  }
  if (!mask.defined() || !padding.defined()) return mask.defined() ? mask : padding;
  if (mask.scalar_type() != at::kBool || padding.scalar_type() != at::kBool) return std::nullopt;
  return mask.logical_and(padding);
}

// Query, key and value [B, N, T, E/N], in one product where they are one tensor.
std::vector<at::Tensor> project(const Multihead& c) {
  const auto split = [&](const at::Tensor& projected) {
    const at::Tensor heads =
        projected.view({projected.size(0), projected.size(1), c.heads, c.embed_dim / c.heads});
    return c.batch_first ? heads.permute({0, 2, 1, 3}) : heads.permute({1, 2, 0, 3});
  };
  std::vector<at::Tensor> projected;
  if (c.query.is_same(c.key) && c.key.is_same(c.value)) {
    projected = at::linear(c.query, c.in_weight, c.in_bias).chunk(3, -1);
  } else if (c.key.is_same(c.value)) {
    const std::vector<int64_t> sizes{c.embed_dim, 2 * c.embed_dim};
    const auto weights = c.in_weight.split_with_sizes(sizes);
    auto biases =
        c.in_bias.defined() ? c.in_bias.split_with_sizes(sizes) : std::vector<at::Tensor>(2);
    projected = {at::linear(c.query, weights[0], biases[0])};
    for (const at::Tensor& x : at::linear(c.key, weights[1], biases[1]).chunk(2, -1)) {
      projected.push_back(x);
    }
  } else {
    const auto weights = c.in_weight.chunk(3);
    const auto biases = c.in_bias.defined() ? c.in_bias.chunk(3) : std::vector<at::Tensor>(3);
    const at::Tensor* sources[] = {&c.query, &c.key, &c.value};
    for (int i = 0; i < 3; ++i) projected.push_back(at::linear(*sources[i], weights[i], biases[i]));
  }
  for (at::Tensor& x : projected) x = split(x);
  return projected;
}

bool fits(const Multihead& c) {
  const int64_t batch_dim = c.batch_first ? 0 : 1;
  const auto is_batched = [](const at::Tensor& x) { return x.defined() && x.dim() == 3; };
  const auto dtype = [](const at::Tensor& x) { return x.scalar_type(); };
  return is_batched(c.query) && is_batched(c.key) && is_batched(c.value) && c.in_weight.defined() &&
         c.out_weight.defined() && c.query.size(2) == c.embed_dim &&
         c.key.sizes() == c.value.sizes() && c.key.size(2) == c.embed_dim &&
         c.query.size(batch_dim) == c.key.size(batch_dim) && c.heads > 0 &&
         c.embed_dim % c.heads == 0 &&
         (!c.in_bias.defined() || dtype(c.in_bias) == dtype(c.in_weight)) &&
         (!c.out_bias.defined() || dtype(c.out_bias) == dtype(c.out_weight)) &&
         c.query.numel() > 0 && c.key.numel() > 0;
}

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

std::vector<at::Tensor> run_multihead(const Multihead& c, bool need_grad) {
  if (!fits(c)) return {};
  const int64_t batch_dim = c.batch_first ? 0 : 1, time_dim = 1 - batch_dim;
  const auto mask =
      merged_mask(c, c.query.size(batch_dim), c.query.size(time_dim), c.key.size(time_dim));
  if (!mask) return {};
  const std::vector<at::Tensor> heads = project(c);
  const DotCall call{{}, {}, c.dropout_p, false, c.need_weights};
  std::vector<at::Tensor> results =
      attend_dot({heads[0], heads[1], heads[2], {}, *mask, {}, {}}, call, need_grad);
  if (results.empty()) return {};
  const at::Tensor joined =
      c.batch_first ? results[0].permute({0, 2, 1, 3}) : results[0].permute({2, 0, 1, 3});
  results[0] = at::linear(joined.flatten(2), c.out_weight, c.out_bias);
  if (c.need_weights && c.average_weights) results[1] = results[1].mean(1);
  return results;
}

std::vector<at::Tensor> run_self_attention(const SelfAttentionCall& c, bool need_grad) {
  const int64_t rank = c.input.defined() ? c.input.dim() : 0;
  if (rank != 2 && rank != 3) return {};
  const auto is_missing = [](const at::Tensor& x) { return !x.defined(); };
  for (const auto* list : {&c.weights, &c.biases}) {
    if (std::any_of(list->begin(), list->end(), is_missing)) return {};
  }
  at::Tensor maps = at::linear(c.input, at::cat(c.weights), at::cat(c.biases));
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
  if (c.score != "additive") {
    const std::optional<double> scale = c.score == "dot" ? std::optional(1.0) : std::nullopt;
    const DotCall call{scale, c.softcap, c.dropout_p, c.causal, c.need_weights};
    return attend_dot({parts[0], parts[1], parts[2], {}, {}, {}, {}}, call, need_grad);
  }
  at::Tensor mask;
  if (c.causal) mask = at::ones({c.input.size(-2), c.input.size(-2)}, at::kBool).tril();
  const auto batched = [&](const at::Tensor& x) { return rank == 3 ? x : x.unsqueeze(0); };
  std::vector<at::Tensor> results = attend_additive(
      {batched(parts[0]), batched(parts[1]), batched(parts[2]), c.scale, mask, {}, {}}, c.dropout_p,
      c.need_weights, need_grad);
  if (rank == 2) {
    for (at::Tensor& x : results) x = x.squeeze(0);
  }
  return results;
}

}  // namespace fastcells
