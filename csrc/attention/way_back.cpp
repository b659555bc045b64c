#include "attention/way_back.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "attention/cpu/engine.h"
#include "eager.h"
#include "op_scope.h"

namespace fastcells {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the way back reads, in the order of attention_autograd.Attention; query, key, value and the
// units of an additive score follow.
enum Saved { kOutput, kLogsumexp, kMask, kLengths, kSeed, kVariables };

constexpr const char* kNumbers = "dropout_p scale softcap left right offset";

// [B, T, X] or [T, X] with one head; an additive call has no dimension of heads.
at::Tensor with_heads(const at::Tensor& x, int64_t rank, bool is_additive) {
  if (!x.defined() || is_additive || rank == 4) return x;
  return rank == 3 ? x.unsqueeze(1) : x.unsqueeze(0).unsqueeze(0);
}
at::Tensor without_heads(const at::Tensor& x, int64_t rank, bool is_additive) {
  if (!x.defined() || is_additive || rank == 4) return x;
  return rank == 3 ? x.squeeze(1) : x.squeeze(0).squeeze(0);
}
// A mask with as many dimensions as the query, ones in front.
at::Tensor of_full_rank(at::Tensor mask, int64_t rank) {
  while (mask.defined() && mask.dim() < rank) mask = mask.unsqueeze(0);
  return mask;
}
at::Tensor without_front(at::Tensor x, int64_t rank) {
  while (x.defined() && x.dim() > rank) x = x.squeeze(0);
  return x;
}

AttentionProblem problem_of(const AttentionTensors& t, const AttentionOptions& o) {
  const int64_t rank = t.query.dim();
  const OptionalTensor lengths = optional(t.key_lengths), seed = optional(t.seed);
  const at::Tensor mask = of_full_rank(t.mask, rank);
  if (t.units.defined()) {
    return check_additive_attention("attention", t.query, t.key, t.value, t.units, optional(mask),
                                    lengths, seed, o.dropout_p);
  }
  const auto heads = [&](const at::Tensor& x) { return with_heads(x, rank, false); };
  return check_attention("attention", heads(t.query), heads(t.key), heads(t.value),
                         optional(heads(mask)), lengths, seed, o.scale, o.softcap, o.window,
                         o.dropout_p);
}

// The engine's results of one head in the rank of the query.
at::Tensor of_rank(const at::Tensor& x, const AttentionTensors& t) {
  if (t.units.defined()) return x.defined() ? x.squeeze(1) : x;
  return without_heads(x, t.query.dim(), false);
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static variable_list forward(AutogradContext* context, const AttentionOptions& options,
                               const at::Tensor& query, const at::Tensor& key,
                               const at::Tensor& value, const OptionalTensor& units,
                               const OptionalTensor& mask, const OptionalTensor& key_lengths,
                               const OptionalTensor& seed) {
    const OpScope scope(query);
    const auto or_undefined = [](const OptionalTensor& x) { return x.value_or(at::Tensor()); };
    const AttentionTensors t{query,
                             key,
                             value,
                             or_undefined(units),
                             or_undefined(mask),
                             or_undefined(key_lengths),
                             or_undefined(seed)};
    const AttentionOutputs out =
        cpu::attention_engine().forward(problem_of(t, options), options.return_weights);
    const at::Tensor output = of_rank(out.output, t);
    variable_list saved{output, out.logsumexp, t.mask, t.key_lengths, t.seed, query, key, value};
    if (units) saved.push_back(*units);
    context->save_for_backward(std::move(saved));
    const AttentionWindow& window = options.window;
    context->saved_data[kNumbers] =
        std::vector<double>{options.dropout_p,   options.scale,        options.softcap,
                            double(window.left), double(window.right), double(window.offset)};
    context->set_materialize_grads(false);
    if (!options.return_weights) return {output};
    return {output, of_rank(out.weights, t)};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const bool is_additive = saved.size() == kVariables + 4;
    // Edges lead to the tensors that were there: the variables, then the mask.
    std::vector<bool> needs;
    const size_t variables = saved.size() - kVariables;
    for (size_t i = 0; i < variables; ++i) needs.push_back(context->needs_input_grad(i));
    needs.push_back(saved[kMask].defined() && context->needs_input_grad(variables));
    const c10::List<double> numbers = context->saved_data.at(kNumbers).toDoubleList();
    AttentionOptions options;
    options.dropout_p = numbers[0], options.scale = numbers[1], options.softcap = numbers[2];
    options.window = {int64_t(numbers[3]), int64_t(numbers[4]), int64_t(numbers[5])};
    variable_list found = may_run_kernels(grads) ? by_kernels(options, needs, grads, saved)
                                                 : by_python(options, needs, grads, saved);
    const at::Tensor mask = found.back();
    found.pop_back();
    variable_list results(1);  // of what is no tensor
    results.insert(results.end(), found.begin(), found.end());
    if (!is_additive) results.emplace_back();  // units
    results.push_back(mask);
    results.resize(8);  // lengths, seed
    return results;
  }

 private:
  // Gradients of the variables and of the mask.
  static variable_list by_kernels(const AttentionOptions& options, const std::vector<bool>& needs,
                                  const variable_list& grads, const variable_list& saved) {
    const OpScope scope(saved[kVariables]);
    const bool is_additive = saved.size() == kVariables + 4;
    const AttentionTensors t{
        saved[kVariables],     saved[kVariables + 1],
        saved[kVariables + 2], is_additive ? saved[kVariables + 3] : at::Tensor(),
        saved[kMask],          saved[kLengths],
        saved[kSeed]};
    const int64_t rank = t.query.dim();
    const auto heads = [&](const at::Tensor& x) { return with_heads(x, rank, is_additive); };
    const AttentionProblem p = problem_of(t, options);
    const at::Tensor grad_output = grads[0].defined() ? grads[0] : at::zeros_like(saved[kOutput]);
    const at::Tensor grad_weights = grads.size() > 1 ? heads(grads[1]) : at::Tensor();
    const at::Tensor logsumexp = is_additive ? saved[kLogsumexp].squeeze(1) : saved[kLogsumexp];
    const AttentionInputGradients result = cpu::attention_engine().backward(
        p,
        check_attention_gradients(p, heads(grad_output), optional(grad_weights),
                                  heads(saved[kOutput]), logsumexp),
        needs.back() && p.mask_dtype != at::kBool);
    variable_list found{of_rank(result.query, t), of_rank(result.key, t), of_rank(result.value, t)};
    if (is_additive) found.push_back(result.units);
    for (size_t i = 0; i < found.size(); ++i) {
      if (!needs[i]) found[i] = at::Tensor();
    }
    found.push_back(saved[kMask].defined() && result.mask.defined()
                        ? without_front(of_rank(result.mask, t), saved[kMask].dim())
                        : at::Tensor());
    return found;
  }

  static variable_list by_python(const AttentionOptions& o, const std::vector<bool>& needs,
                                 const variable_list& grads, const variable_list& saved) {
    c10::List<bool> asked;
    for (const bool needed : needs) asked.push_back(needed);
    variable_list given = grads;
    given.resize(2);
    return gradients_by_python(
        "attention_autograd", "gradients_of_node",
        {saved.size() == kVariables + 4, o.scale, o.softcap, o.window.left, o.window.right,
         o.window.offset, o.dropout_p, asked, c10::IValue(given), c10::IValue(saved)});
  }
};

}  // namespace

void check(const AttentionTensors& tensors, AttentionOptions options) {
  options.dropout_p = 0;
  problem_of(tensors, options);
}

std::vector<at::Tensor> attend(const AttentionTensors& t, const AttentionOptions& options,
                               bool need_grad) {
  if (need_grad) {
    return AttentionFunction::apply(options, t.query, t.key, t.value, optional(t.units),
                                    optional(t.mask), optional(t.key_lengths), optional(t.seed));
  }
  const OpScope scope(t.query);
  const AttentionOutputs out =
      cpu::attention_engine().forward(problem_of(t, options), options.return_weights);
  std::vector<at::Tensor> results{of_rank(out.output, t)};
  if (options.return_weights) results.push_back(of_rank(out.weights, t));
  return results;
}

}  // namespace fastcells
