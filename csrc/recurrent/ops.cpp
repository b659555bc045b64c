// The recurrent ops of every device: check, run the device's engine, return what the schema says.
#include "ops.h"

#include "checks.h"
#include "dense.h"
#include "op_scope.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/engine.h"

#ifdef FASTCELLS_WITH_CUDA
#include "recurrent/cuda/engine.h"
#endif

namespace fastcells {
namespace {

constexpr const char* kForward = "fastcells::recurrent_forward";
constexpr const char* kBackward = "fastcells::recurrent_backward";
constexpr const char* kStep = "fastcells::recurrent_step";

const Engine& engine_of(const at::Tensor& input) {
#ifdef FASTCELLS_WITH_CUDA
  if (input.is_cuda()) return cuda::engine();
#endif
  TORCH_CHECK_NOT_IMPLEMENTED(input.is_cpu(), "fastcells: no recurrent kernels for ",
                              input.device());
  return cpu::engine();
}

bool is_absent(const at::Tensor& tensor) { return tensor.dim() == 1 && tensor.size(0) == 0; }

// The forward pass's tensors must be the ones that this layer produced; `saved` may be absent, and
// is undefined then.
LayerOutputs check_outputs(const Layer& layer, const LayerOutputs& given) {
  const auto& s = layer.sizes;
  const auto dtype = layer.input.scalar_type();
  LayerOutputs outputs;
  outputs.output = given.output.contiguous();
  if (!is_absent(given.saved)) outputs.saved = given.saved.contiguous();
  check_optional(kBackward, "output", "(T, B, D*P)", outputs.output, {s.T, s.B, s.D * s.P}, dtype,
                 layer.input);
  check_optional(kBackward, "saved", "(D, T, B, S*H)", outputs.saved,
                 {s.D, s.T, s.B, s.saved * s.H}, layer.storage_of_saved(), layer.input);
  if (layer.cell.has_c()) {
    outputs.cells = given.cells.contiguous();
    check_optional(kBackward, "cells", s.cells_letters(), outputs.cells, {s.T, s.B, s.D * s.c()},
                   layer.arithmetic(), layer.input);
  }
  return outputs;
}

LayerGradients check_gradients(const Layer& layer, const LayerGradients& given) {
  const auto& s = layer.sizes;
  const auto dtype = layer.input.scalar_type();
  const auto contiguous = [](const at::Tensor& t) { return t.defined() ? dense(t) : t; };
  LayerGradients grads{contiguous(given.output), contiguous(given.h_n), {}, {}};
  check_optional(kBackward, "grad_output", "(T, B, D*P)", grads.output, {s.T, s.B, s.D * s.P},
                 dtype, layer.input);
  check_optional(kBackward, "grad_h_n", "(D, B, P)", grads.h_n, {s.D, s.B, s.P}, dtype,
                 layer.input);
  if (layer.cell.has_c()) {
    grads.c_n = contiguous(given.c_n), grads.cells = contiguous(given.cells);
    check_optional(kBackward, "grad_c_n", s.c_letters(), grads.c_n, {s.D, s.B, s.c()}, dtype,
                   layer.input);
    check_optional(kBackward, "grad_cells", s.cells_letters(), grads.cells, {s.T, s.B, s.D * s.c()},
                   layer.arithmetic(), layer.input);
  }
  return grads;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> recurrent_forward(
    std::string_view cell, int64_t directions, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, std::string_view names,
    const OptionalTensor& lengths, const OptionalTensor& resets, std::string_view keep) {
  const OpScope scope(input);
  const Layer layer = check_layer(
      kForward, {cell, directions, input, h_0, c_0, weights, split_names(names), lengths, resets});
  const LayerOutputs out = engine_of(input).forward(layer, parse_keep(keep));
  return {out.output, out.h_n, or_absent(out.c_n, input), or_absent(out.cells, input),
          or_absent(out.saved, input)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> recurrent_backward(
    std::string_view cell, int64_t directions, const OptionalTensor& grad_output,
    const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
    const OptionalTensor& grad_cells, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, std::string_view names,
    const OptionalTensor& lengths, const OptionalTensor& resets, const at::Tensor& output,
    const at::Tensor& cells, const at::Tensor& saved, c10::List<bool> needs) {
  const OpScope scope(input);
  const Layer layer = check_layer(
      kBackward, {cell, directions, input, h_0, c_0, weights, split_names(names), lengths, resets});
  TORCH_CHECK(needs.size() == 3 + weights.size(), kBackward, ": needs must have 3 + ",
              weights.size(), " values, got ", needs.size());
  LayerNeeds wanted{needs[0], needs[1], layer.cell.has_c() && needs[2], {}};
  wanted.weights.resize(directions);
  const WeightNames listed = split_names(names);
  for (size_t k = 0; k < weights.size(); ++k) {
    *find_weight(wanted.weights[k / listed.size()], listed[k % listed.size()]) = needs[3 + k];
  }
  const LayerGradients grads =
      check_gradients(layer, {grad_output.value_or(at::Tensor()), grad_h_n.value_or(at::Tensor()),
                              grad_c_n.value_or(at::Tensor()), grad_cells.value_or(at::Tensor())});
  InputGradients result = engine_of(input).backward(
      layer, check_outputs(layer, {output, {}, {}, cells, saved}), grads, wanted);
  std::vector<at::Tensor> d_weights;
  for (DirectionWeights& of_direction : result.weights) {
    for (const std::string_view name : listed) {
      d_weights.push_back(or_absent(*find_weight(of_direction, name), input));
    }
  }
  return {or_absent(result.input, input), or_absent(result.h_0, input),
          or_absent(result.c_0, input), d_weights};
}

std::tuple<at::Tensor, at::Tensor> recurrent_step(std::string_view cell, const at::Tensor& input,
                                                  const OptionalTensor& h, const OptionalTensor& c,
                                                  at::TensorList weights, std::string_view names) {
  const OpScope scope(input);
  TORCH_CHECK(input.dim() == 2, kStep, ": input must have shape (B, I), got ",
              shape_text(input.sizes()));
  const auto one_direction = [](const OptionalTensor& state) {
    return state && state->defined() ? OptionalTensor(state->unsqueeze(0)) : OptionalTensor();
  };
  const at::Tensor sequence = input.unsqueeze(0);
  const OptionalTensor h_0 = one_direction(h), c_0 = one_direction(c);
  const Layer layer = check_layer(kStep, {cell, 1, sequence, h_0, c_0, weights, split_names(names),
                                          std::nullopt, std::nullopt});
  const LayerOutputs out = engine_of(input).step(layer);
  return {out.h_n.squeeze(0), out.c_n.defined() ? out.c_n.squeeze(0) : or_absent({}, input)};
}

}  // namespace fastcells
