#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

#include "attention/layers.h"

namespace fastcells {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct HeadSizes {
  int64_t B, N, Tq, Tk;  // Tk without added keys
};

// ---- whether a call is one, as fastcells/checks/multihead.py words it ----

bool is_mask(const at::Tensor& x) { return x.scalar_type() == at::kBool || x.is_floating_point(); }

bool have_one_dtype(std::initializer_list<at::Tensor> tensors) {
  const at::ScalarType dtype = tensors.begin()->scalar_type();
  return std::all_of(tensors.begin(), tensors.end(),
                     [&](const at::Tensor& x) { return !x.defined() || x.scalar_type() == dtype; });
}

// Of batched tensors.
bool fits(const Multihead& c) {
  const at::Tensor& k_weight = c.in_weight.defined() ? c.in_weight : c.k_weight;
  const at::Tensor& v_weight = c.in_weight.defined() ? c.in_weight : c.v_weight;
  const auto is_batched = [](const at::Tensor& x) { return x.defined() && x.dim() == 3; };
  const auto is_matrix = [](const at::Tensor& x) { return x.defined() && x.dim() == 2; };
  if (!is_batched(c.query) || !is_batched(c.key) || !is_batched(c.value) || !is_matrix(k_weight) ||
      !is_matrix(v_weight) || !is_matrix(c.out_weight) ||
      (!c.in_weight.defined() && !is_matrix(c.q_weight)) ||
      c.bias_k.defined() != c.bias_v.defined()) {
    return false;
  }
  const int64_t batch_dim = c.batch_first ? 0 : 1, E = c.embed_dim;
  return c.heads > 0 && E % c.heads == 0 && c.query.size(2) == E &&
         c.key.size(2) == k_weight.size(1) && c.value.size(2) == v_weight.size(1) &&
         c.key.sizes().slice(0, 2) == c.value.sizes().slice(0, 2) &&
         c.query.size(batch_dim) == c.key.size(batch_dim) && c.query.numel() > 0 &&
         c.key.numel() > 0 && c.value.numel() > 0 &&
         have_one_dtype({c.query, c.key, c.value, k_weight, v_weight, c.q_weight, c.in_bias,
                         c.bias_k, c.bias_v, c.out_weight, c.out_bias});
}

bool mask_fits(const Multihead& c, const HeadSizes& s) {
  const auto is_shaped = [](const at::Tensor& x, at::IntArrayRef shape) {
    return x.sizes() == shape;
  };
  const bool mask =
      !c.mask.defined() || (is_mask(c.mask) && (is_shaped(c.mask, {s.Tq, s.Tk}) ||
                                                is_shaped(c.mask, {s.B * s.N, s.Tq, s.Tk})));
  const bool padding =
      !c.padding.defined() || (is_mask(c.padding) && is_shaped(c.padding, {s.B, s.Tk}));
  return mask && padding && (!c.is_causal || c.mask.defined());
}

// ---- the masks ----

// The mask of torch.nn.MultiheadAttention as attention takes it: true attends. The added keys are
// seen by every query.
at::Tensor to_attend(const at::Tensor& mask, int64_t added) {
  const bool is_bool = mask.scalar_type() == at::kBool;
  const at::Tensor seen = is_bool ? mask.logical_not() : mask;
  return added ? at::constant_pad_nd(seen, {0, added}, is_bool ? 1 : 0) : seen;
}

// A mask as what is added to the scores.
at::Tensor as_scores(const at::Tensor& mask, at::ScalarType dtype) {
  if (mask.scalar_type() != at::kBool) return mask.to(dtype);
  return at::zeros_like(mask, dtype).masked_fill(mask.logical_not(), -kInfinity);
}

// Both masks as one [1|B, 1|N, 1|Tq, Tk], as wide as the wider of those that are added.
at::Tensor merged_mask(const Multihead& c, const HeadSizes& s, int64_t added) {
  at::Tensor mask, padding;
  if (c.mask.defined()) {
    mask = to_attend(c.mask, added);
    mask = mask.dim() == 2 ? mask.unsqueeze(0).unsqueeze(0) : mask.unflatten(0, {s.B, s.N});
  }
  if (c.padding.defined()) padding = to_attend(c.padding, added).unsqueeze(1).unsqueeze(1);
  if (!mask.defined() || !padding.defined()) return mask.defined() ? mask : padding;
  if (mask.scalar_type() == at::kBool && padding.scalar_type() == at::kBool) {
    return mask.logical_and(padding);
  }
  at::ScalarType dtype = c.query.scalar_type();
  for (const at::Tensor* x : {&mask, &padding}) {
    if (x->scalar_type() == at::kFloat) dtype = c10::promoteTypes(dtype, at::kFloat);
  }
  return as_scores(mask, dtype).add(as_scores(padding, dtype));
}

// Whether the mask may be left out, as is_causal says: where it is the causal one.
bool takes_hint(const Multihead& c, const HeadSizes& s, int64_t added) {
  if (!c.is_causal || added || c.mask.requires_grad() || c.mask.dim() != 2 || s.Tq != s.Tk) {
    return false;
  }
  const at::Tensor hidden = at::ones_like(c.mask, at::kBool).triu_(1);
  if (c.mask.scalar_type() == at::kBool) return c.mask.equal(hidden);
  return c.mask.equal(at::zeros_like(c.mask).masked_fill_(hidden, -kInfinity));
}

// ---- query, key and value ----

struct Heads {
  at::Tensor query, key, value;  // [B, N, T, E/N]
};

// In one product where they are one tensor.
Heads project(const Multihead& c) {
  const auto bias_of = [&](const std::vector<int64_t>& rows) {
    return c.in_bias.defined() ? c.in_bias.split_with_sizes(rows)
                               : std::vector<at::Tensor>(rows.size());
  };
  const int64_t E = c.embed_dim;
  const bool is_joined = c.in_weight.defined(), is_one = c.key.is_same(c.value);
  std::vector<at::Tensor> projected;
  if (is_joined && is_one && c.query.is_same(c.key)) {
    projected = at::linear(c.query, c.in_weight, c.in_bias).chunk(3, -1);
  } else if (is_joined && is_one) {
    const auto weights = c.in_weight.split_with_sizes({E, 2 * E});
    const auto biases = bias_of({E, 2 * E});
    projected = at::linear(c.key, weights[1], biases[1]).chunk(2, -1);
    projected.insert(projected.begin(), at::linear(c.query, weights[0], biases[0]));
  } else {
    const auto weights = is_joined ? c.in_weight.chunk(3)
                                   : std::vector<at::Tensor>{c.q_weight, c.k_weight, c.v_weight};
    const auto biases = bias_of({E, E, E});
    const at::Tensor* sources[] = {&c.query, &c.key, &c.value};
    for (int i = 0; i < 3; ++i) projected.push_back(at::linear(*sources[i], weights[i], biases[i]));
  }
  for (at::Tensor& x : projected) {
    x = x.unflatten(-1, {c.heads, E / c.heads});
    x = c.batch_first ? x.permute({0, 2, 1, 3}) : x.permute({1, 2, 0, 3});
  }
  return {projected[0], projected[1], projected[2]};
}

// Appends bias_k and bias_v, and a key and value of 0, where asked for.
void add_keys(const Multihead& c, Heads& heads) {
  for (at::Tensor* x : {&heads.key, &heads.value}) {
    const at::Tensor& bias = x == &heads.key ? c.bias_k : c.bias_v;
    if (bias.defined()) {
      *x = at::cat({*x, bias.view({1, c.heads, 1, -1}).expand({x->size(0), -1, -1, -1})}, 2);
    }
    if (c.add_zero) *x = at::constant_pad_nd(*x, {0, 0, 0, 1}, 0);
  }
}

std::vector<at::Tensor> run_batched(const Multihead& c, bool need_grad) {
  if (!fits(c)) return {};
  const int64_t batch_dim = c.batch_first ? 0 : 1, time_dim = 1 - batch_dim;
  const HeadSizes sizes{c.query.size(batch_dim), c.heads, c.query.size(time_dim),
                        c.key.size(time_dim)};
  if (!mask_fits(c, sizes)) return {};
  const int64_t added = int64_t(c.bias_k.defined()) + int64_t(c.add_zero);
  Heads heads = project(c);
  add_keys(c, heads);
  const bool is_causal = takes_hint(c, sizes, added);
  Multihead masks = c;
  if (is_causal) masks.mask = at::Tensor();
  const DotCall call{{}, {}, c.dropout_p, is_causal, c.need_weights};
  std::vector<at::Tensor> results = attend_dot(
      {heads.query, heads.key, heads.value, {}, merged_mask(masks, sizes, added), {}, {}}, call,
      need_grad);
  if (results.empty()) return {};
  const at::Tensor joined =
      c.batch_first ? results[0].permute({0, 2, 1, 3}) : results[0].permute({2, 0, 1, 3});
  results[0] = at::linear(joined.flatten(2), c.out_weight, c.out_bias);
  if (c.need_weights && c.average_weights) results[1] = results[1].mean(1);
  return results;
}

}  // namespace

std::vector<at::Tensor> run_multihead(Multihead c, bool need_grad) {
  if (!c.query.defined() || c.query.dim() != 2) return run_batched(c, need_grad);
  const auto is_matrix = [](const at::Tensor& x) { return x.defined() && x.dim() == 2; };
  if (!is_matrix(c.key) || !is_matrix(c.value)) return {};
  const bool is_self = c.query.is_same(c.key), is_one = c.key.is_same(c.value);
  c.batch_first = false;
  c.query = c.query.unsqueeze(1);
  c.key = is_self ? c.query : c.key.unsqueeze(1);
  c.value = is_one ? c.key : c.value.unsqueeze(1);
  if (c.padding.defined()) c.padding = c.padding.unsqueeze(0);
  std::vector<at::Tensor> results = run_batched(c, need_grad);
  for (size_t i = 0; i < results.size(); ++i) results[i] = results[i].squeeze(i == 0 ? 1 : 0);
  return results;
}

}  // namespace fastcells
