#include "attention/problem.h"

#include <algorithm>
#include <array>
#include <vector>

#include "checks.h"
#include "dense.h"
#include "math/philox.h"

namespace fastcells {
namespace {

// Heads as the messages name them: an additive call has no dimension of heads.
const char* query_names(bool is_additive) { return is_additive ? "(B, Tq, D)" : "(B, N, Tq, E)"; }

at::Tensor with_rows(const at::Tensor& x) {
  return x.size(-1) > 1 && x.stride(-1) != 1 ? dense(x) : x;
}

void check_like_query(const char* op, const char* name, const at::Tensor& x,
                      const at::Tensor& query) {
  TORCH_CHECK_TYPE(x.scalar_type() == query.scalar_type(), op, ": ", name,
                   " must have the dtype of the query, ", c10::toString(query.scalar_type()),
                   ", got ", c10::toString(x.scalar_type()), ". Convert it with .to(...)");
  check_device(op, name, x, query.device(), "query");
}

void check_dtype_of_query(const char* op, const at::Tensor& query) {
  const auto dtype = query.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat ||
                       (query.is_cpu() ? dtype == at::kDouble : dtype == at::kHalf) ||
                       dtype == at::kBFloat16,
                   op, ": dtype ", c10::toString(dtype), " is not supported (float32, ",
                   query.is_cpu() ? "float64" : "float16", ", bfloat16). Convert with .to(...)");
}

void take_mask(AttentionProblem& p, const OptionalTensor& mask, bool is_additive) {
  if (!mask || !mask->defined()) return;
  const auto& s = p.sizes;
  const auto dtype = mask->scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kBool || dtype == at::kFloat || dtype == p.query.scalar_type(),
                   p.op, ": mask must have dtype Bool (true: attend), or Float or the query's, ",
                   c10::toString(p.query.scalar_type()), " (added to the scores), got ",
                   c10::toString(dtype));
  check_device(p.op, "mask", *mask, p.query.device(), "query");
  const std::array<int64_t, 4> full{s.B, s.N, s.Tq, s.Tk};
  const at::Tensor four = is_additive && mask->dim() == 3 ? mask->unsqueeze(1) : *mask;
  bool fits = four.dim() == 4 && (!is_additive || mask->dim() == 3);
  for (int64_t d = 0; fits && d < 4; ++d) fits = four.size(d) == 1 || four.size(d) == full[d];
  TORCH_CHECK(fits, p.op, ": mask must have shape ",
              is_additive ? "(1|B, 1|Tq, 1|Tk)" : "(1|B, 1|N, 1|Tq, 1|Tk)",
              " with (B, N, Tq, Tk) = ", shape_text(full), ", got ", shape_text(mask->sizes()));
  p.mask_dtype = dtype;
  // Of another dtype than the query's it is of the arithmetic's, at least: nothing is rounded.
  const bool is_plain = dtype == at::kBool || dtype == p.query.scalar_type();
  p.mask = (is_plain ? four : four.to(p.arithmetic())).contiguous();
}

void take_lengths(AttentionProblem& p, const OptionalTensor& lengths) {
  if (!lengths || !lengths->defined()) return;
  check_shape(p.op, "key_lengths", "(B,)", *lengths, {p.sizes.B});
  check_dtype(p.op, "key_lengths", *lengths, at::kLong);
  check_device(p.op, "key_lengths", *lengths, p.query.device(), "query");
  p.key_lengths = lengths->contiguous();
  check_lengths_in_range(p.op, "key_lengths", p.key_lengths, p.sizes.Tk, "Tk");
}

void take_dropout(AttentionProblem& p, double dropout_p, const OptionalTensor& seed) {
  TORCH_CHECK_VALUE(dropout_p >= 0 && dropout_p <= 1, p.op, ": dropout_p must lie in 0 .. 1, got ",
                    dropout_p);
  p.dropout_p = dropout_p;
  if (dropout_p == 0) return;
  TORCH_CHECK(seed && seed->defined(), p.op, ": dropout_p is ", dropout_p,
              ", which needs a seed: an int64 tensor of shape (1,)");
  check_shape(p.op, "seed", "(1,)", *seed, {1});
  check_dtype(p.op, "seed", *seed, at::kLong);
  check_device(p.op, "seed", *seed, p.query.device(), "query");
  p.seed = *seed;
}

// Query, key and value of four dimensions, whose sizes agree; `names` are the user's.
AttentionProblem check_matrices(const char* op, const at::Tensor& query, const at::Tensor& key,
                                const at::Tensor& value, bool is_additive) {
  const int64_t rank = is_additive ? 3 : 4;
  TORCH_CHECK(query.dim() == rank && key.dim() == rank && value.dim() == rank, op,
              ": query, key and value must have ", rank, " dimensions, ", query_names(is_additive),
              ", got ", shape_text(query.sizes()), ", ", shape_text(key.sizes()), " and ",
              shape_text(value.sizes()));
  check_dtype_of_query(op, query);
  check_like_query(op, "key", key, query);
  check_like_query(op, "value", value, query);
  const auto heads = [&](const at::Tensor& x) { return is_additive ? x.unsqueeze(1) : x; };
  AttentionProblem p{};
  p.op = op;
  const at::Tensor q = heads(query), k = heads(key), v = heads(value);
  auto& s = p.sizes;
  s.B = q.size(0), s.N = q.size(1), s.Tq = q.size(2), s.E = q.size(3);
  s.Nk = k.size(1), s.Tk = k.size(2), s.Ev = v.size(3);
  if (is_additive) {
    check_shape(op, "key", "(B, Tk, D)", key, {s.B, s.Tk, s.E});
    check_shape(op, "value", "(B, Tk, E)", value, {s.B, s.Tk, s.Ev});
  } else {
    check_shape(op, "key", "(B, Nk, Tk, E)", key, {s.B, s.Nk, s.Tk, s.E});
    check_shape(op, "value", "(B, Nk, Tk, Ev)", value, {s.B, s.Nk, s.Tk, s.Ev});
    TORCH_CHECK(s.Nk > 0 ? s.N % s.Nk == 0 : s.N == 0, op, ": the query's ", s.N,
                " heads must be a multiple of the key's ", s.Nk);
  }
  p.query = with_rows(q), p.key = with_rows(k), p.value = with_rows(v);
  return p;
}

}  // namespace

HeadMatrix head_matrix(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

void set_arguments(const AttentionProblem& p, AttentionArgs& a) {
  const auto& s = p.sizes;
  a.B = s.B, a.N = s.N, a.Nk = s.Nk, a.Tq = s.Tq, a.Tk = s.Tk, a.E = s.E, a.Ev = s.Ev;
  a.query = head_matrix(p.query), a.key = head_matrix(p.key), a.value = head_matrix(p.value);
  if (p.mask.defined()) {
    const auto stride = [&](int64_t d) { return p.mask.size(d) == 1 ? 0 : p.mask.stride(d); };
    using Kind = AttentionMask::Kind;
    const auto dtype = p.mask.scalar_type();
    a.mask = {dtype == at::kBool               ? Kind::kBool
              : dtype == p.query.scalar_type() ? Kind::kAdded
                                               : Kind::kAddedWide,
              p.mask.const_data_ptr(),
              stride(0),
              stride(1),
              stride(2),
              stride(3)};
  }
  if (p.key_lengths.defined()) a.key_lengths = p.key_lengths.const_data_ptr<int64_t>();
  if (p.is_additive()) a.units = p.units.const_data_ptr();
  a.scale = p.scale, a.softcap = p.softcap;
  a.left = p.left, a.right = p.right, a.offset = p.offset;
  a.dropout.is_on = p.dropout_p > 0;
  if (p.seed.defined()) a.dropout.seed = p.seed.const_data_ptr<int64_t>();
  a.dropout.threshold = dropout_threshold(p.dropout_p);
  a.dropout.keep_scale = p.dropout_p < 1 ? 1 / (1 - p.dropout_p) : 0;
}

AttentionProblem check_attention(const char* op, const at::Tensor& query, const at::Tensor& key,
                                 const at::Tensor& value, const OptionalTensor& mask,
                                 const OptionalTensor& key_lengths, const OptionalTensor& seed,
                                 double scale, double softcap, const AttentionWindow& window,
                                 double dropout_p) {
  AttentionProblem p = check_matrices(op, query, key, value, false);
  TORCH_CHECK_VALUE(softcap >= 0, op, ": softcap must be 0 (none) or positive, got ", softcap);
  constexpr int64_t kFar = int64_t(1) << 60;  // sums of a few such numbers do not overflow
  p.scale = scale, p.softcap = softcap;
  p.offset = std::clamp(window.offset, -kFar, kFar);
  p.left = std::min(window.left, kFar), p.right = std::min(window.right, kFar);
  take_mask(p, mask, false);
  take_lengths(p, key_lengths);
  take_dropout(p, dropout_p, seed);
  return p;
}

AttentionProblem check_additive_attention(const char* op, const at::Tensor& query,
                                          const at::Tensor& key, const at::Tensor& value,
                                          const at::Tensor& scale, const OptionalTensor& mask,
                                          const OptionalTensor& key_lengths,
                                          const OptionalTensor& seed, double dropout_p) {
  AttentionProblem p = check_matrices(op, query, key, value, true);
  check_shape(op, "scale", "(D,)", scale, {p.sizes.E});
  check_like_query(op, "scale", scale, query);
  p.units = scale.to(p.arithmetic()).contiguous();
  take_mask(p, mask, true);
  take_lengths(p, key_lengths);
  take_dropout(p, dropout_p, seed);
  return p;
}

AttentionGradients check_attention_gradients(const AttentionProblem& p,
                                             const at::Tensor& grad_output,
                                             const OptionalTensor& grad_weights,
                                             const at::Tensor& output,
                                             const at::Tensor& logsumexp) {
  const auto& s = p.sizes;
  const bool is_additive = p.is_additive();
  const auto heads = [&](const at::Tensor& x) { return is_additive ? x.unsqueeze(1) : x; };
  const auto shaped = [&](const char* name, const at::Tensor& x, std::vector<int64_t> shape) {
    if (is_additive) shape.erase(shape.begin() + 1);
    check_shape(p.op, name, is_additive ? "(B, Tq, ..)" : "(B, N, Tq, ..)", x, shape);
    return heads(x);
  };
  AttentionGradients g;
  check_like_query(p.op, "grad_output", grad_output, p.query);
  check_like_query(p.op, "output", output, p.query);
  g.grad_output = with_rows(shaped("grad_output", grad_output, {s.B, s.N, s.Tq, s.Ev}));
  g.output = with_rows(shaped("output", output, {s.B, s.N, s.Tq, s.Ev}));
  g.logsumexp = shaped("logsumexp", logsumexp, {s.B, s.N, s.Tq, 2}).contiguous();
  check_dtype(p.op, "logsumexp", logsumexp, p.arithmetic());
  if (grad_weights && grad_weights->defined()) {
    check_like_query(p.op, "grad_weights", *grad_weights, p.query);
    g.grad_weights = shaped("grad_weights", *grad_weights, {s.B, s.N, s.Tq, s.Tk}).contiguous();
  }
  return g;
}

}  // namespace fastcells
