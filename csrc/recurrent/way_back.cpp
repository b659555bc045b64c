#include "recurrent/way_back.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "dense.h"
#include "eager.h"
#include "op_scope.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/loop.h"

namespace fastcells {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the way back reads, in the order of recurrent_autograd.Recurrent; the weights follow.
enum Saved { kInput, kH0, kC0, kLengths, kResets, kOutput, kCells, kKept, kWeights };

constexpr const char* kDescription = "layer";  // "lstm 1 weight_ih weight_hh": as ops.h has them

std::string describe(const RecordedCall& call) {
  std::string text = call.cell.name;
  text += call.directions == 1 ? " 1" : " 2";
  for (const std::string_view name : call.names) (text += ' ') += name;
  return text;
}

struct LayerFunction : torch::autograd::Function<LayerFunction> {
  static variable_list forward(AutogradContext* context, const RecordedCall& call,
                               const at::Tensor& input, const OptionalTensor& h_0,
                               const OptionalTensor& c_0, const OptionalTensor& lengths,
                               const OptionalTensor& resets, at::TensorList weights) {
    const OpScope scope(input);
    const int64_t rank = input.dim();
    const at::Tensor sequence = as_layer(input);
    const OptionalTensor h = optional(as_layer(h_0.value_or(at::Tensor())));
    const OptionalTensor c = optional(as_layer(c_0.value_or(at::Tensor())));
    const Layer layer = check_layer("layer", {call.cell.name, call.directions, sequence, h, c,
                                              weights, call.names, lengths, resets});
    const LayerOutputs out = cpu::engine().forward(layer, call.keep);
    variable_list kept{input,
                       h_0.value_or(at::Tensor()),
                       c_0.value_or(at::Tensor()),
                       lengths.value_or(at::Tensor()),
                       resets.value_or(at::Tensor()),
                       out.output,
                       or_absent(out.cells, input),
                       or_absent(out.saved, input)};
    if (call.kept) *call.kept = kept[kKept];
    kept.insert(kept.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(kept));
    context->saved_data[kDescription] = describe(call);
    context->set_materialize_grads(false);
    variable_list results;
    if (rank == 3) results.push_back(out.output);
    results.push_back(of_rank(out.h_n, rank));
    if (call.cell.has_c()) results.push_back(of_rank(out.c_n, rank));
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& given) {
    const variable_list saved = context->get_saved_variables();
    const bool is_step = saved[kInput].dim() < 3;
    variable_list grads(is_step ? 1 : 0);  // of output, which a step has not, h_n, c_n, cells
    grads.insert(grads.end(), given.begin(), given.end());
    grads.resize(4);
    // Edges lead to the tensors that were there, in their order.
    std::vector<bool> needs;
    size_t edge = 0;
    for (size_t i = 0; i < saved.size(); ++i) {
      if (i >= kOutput && i < kWeights) continue;
      const bool needed = saved[i].defined() && context->needs_input_grad(edge);
      edge += saved[i].defined() ? 1 : 0;
      if (i != kLengths && i != kResets) needs.push_back(needed);
    }
    const std::string& text = context->saved_data.at(kDescription).toStringRef();
    const WeightNames words = split_names(text);
    const int64_t directions = words[1] == "1" ? 1 : 2;
    const WeightNames names(words.begin() + 2, words.end());
    const variable_list found = may_run_kernels(given)
                                    ? by_kernels(words[0], directions, names, needs, grads, saved)
                                    : by_python(words[0], directions, names, needs, grads, saved);
    variable_list results(1);  // of what is no tensor
    results.insert(results.end(), found.begin(), found.begin() + 3);
    results.resize(6);  // lengths, resets
    results.insert(results.end(), found.begin() + 3, found.end());
    return results;
  }

 private:
  // Gradients of input, h_0, c_0 and the weights.
  static variable_list by_kernels(std::string_view cell, int64_t directions,
                                  const WeightNames& names, const std::vector<bool>& needs,
                                  const variable_list& grads, const variable_list& saved) {
    const OpScope scope(saved[kInput]);
    const int64_t rank = saved[kInput].dim();
    const at::Tensor input = as_layer(saved[kInput]);
    const OptionalTensor h_0 = optional(as_layer(saved[kH0])), c_0 = optional(as_layer(saved[kC0]));
    const at::TensorList weights = at::TensorList(saved).slice(kWeights);
    const Layer layer = check_layer("layer", {cell, directions, input, h_0, c_0, weights, names,
                                              optional(saved[kLengths]), optional(saved[kResets])});
    LayerNeeds wanted{needs[0], needs[1], needs[2], {}};
    wanted.weights.resize(directions);
    for (size_t k = 0; k < weights.size(); ++k) {
      *find_weight(wanted.weights[k / names.size()], names[k % names.size()]) = needs[3 + k];
    }
    const bool any_weight = std::find(needs.begin() + 3, needs.end(), true) != needs.end();
    const bool is_shared =
        any_weight && loop::shares_weights(weights.size()) && cpu::engine().is_plain_step(layer);
    loop::StepSums* const sums = is_shared ? loop::find_sums(layer, names) : nullptr;
    if (sums) {
      wanted.weights.assign(1, {});
      wanted.gates = sums->gathers(layer.sizes);
      if (!wanted.gates) wanted.sums = sums;
    }
    const auto contiguous = [](const at::Tensor& x) {
      return x.defined() ? dense(as_layer(x)) : x;
    };
    const bool has_c = layer.cell.has_c();
    const bool has_saved = saved[kKept].dim() > 1;
    InputGradients result = cpu::engine().backward(
        layer,
        {saved[kOutput],
         {},
         {},
         has_c ? saved[kCells] : at::Tensor(),
         has_saved ? saved[kKept] : at::Tensor()},
        {contiguous(grads[0]), contiguous(grads[1]), contiguous(grads[2]), {}}, wanted);
    if (wanted.gates) {
      const at::Tensor h =
          h_0 ? (*h_0)[0] : at::zeros({layer.sizes.B, layer.sizes.H}, input.options());
      sums->gather({result.dx_gates, result.dg_gates, input[0], h});
    }
    if (sums) result.weights.assign(1, {});
    variable_list found{of_rank(result.input, rank), of_rank(result.h_0, rank),
                        of_rank(result.c_0, rank)};
    for (DirectionWeights& of_direction : result.weights) {
      for (const std::string_view name : names) found.push_back(*find_weight(of_direction, name));
    }
    return found;
  }

  static variable_list by_python(std::string_view cell, int64_t directions,
                                 const WeightNames& names, const std::vector<bool>& needs,
                                 const variable_list& grads, const variable_list& saved) {
    c10::List<bool> asked;
    for (const bool needed : needs) asked.push_back(needed);
    return gradients_by_python("recurrent_autograd", "gradients_of_node",
                               {std::string(cell), directions, c10::Join(" ", names), asked,
                                c10::IValue(grads), c10::IValue(saved)});
  }
};

}  // namespace

at::Tensor as_layer(at::Tensor tensor) {
  while (tensor.defined() && tensor.dim() < 3) tensor = tensor.unsqueeze(0);
  return tensor;
}
at::Tensor of_rank(at::Tensor tensor, int64_t rank) {
  while (tensor.defined() && tensor.dim() > rank) tensor = tensor.squeeze(0);
  return tensor;
}

variable_list record(const RecordedCall& call, const at::Tensor& input, const at::Tensor& h_0,
                     const at::Tensor& c_0, const at::Tensor& lengths, const at::Tensor& resets,
                     at::TensorList weights) {
  const bool is_step = call.directions == 1 && (input.dim() < 3 || input.size(0) == 1) &&
                       !lengths.defined() && !resets.defined();
  at::Tensor kept;
  RecordedCall recorded = call;
  if (is_step) recorded.kept = &kept;
  variable_list results = LayerFunction::apply(recorded, input, optional(h_0), optional(c_0),
                                               optional(lengths), optional(resets), weights);
  if (is_step) loop::share_weights(call.cell, call.names, results[0], kept, weights);
  return results;
}

}  // namespace fastcells
