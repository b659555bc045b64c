#include "recurrent/at_once.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "op_scope.h"
#include "python_tensors.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/cpu/single_step.h"
#include "recurrent/packed.h"
#include "recurrent/way_back.h"

namespace fastcells {
namespace {

// ---- on tensors ----

bool is_step_operand(const at::Tensor& x, at::IntArrayRef shape) {
  return x.scalar_type() == at::kFloat && x.sizes() == shape && x.is_contiguous();
}

// One step of contiguous float32 tensors, without a way back and without a look at what does not
// matter there: h' and c' (undefined for a cell without c), shaped like h. False, and nothing was
// done, for anything that is not exactly that; the op then does it, or says what is wrong.
bool step_at_once(const CellFacts& cell, const cpu::StepTensors& t, at::Tensor& h_new,
                  at::Tensor& c_new) {
  const int64_t rank = t.input.dim();
  if (rank < 1 || rank > 2 || t.weight_ih.dim() != 2 || t.weight_hh.dim() != 2) return false;
  const int64_t B = rank == 2 ? t.input.size(0) : 1, I = t.input.size(-1);
  const int64_t H = t.weight_hh.size(1), rows = cell.gates * H;
  const std::array<int64_t, 2> state_shape{B, H}, input_shape{B, I};
  const auto of_rank = [&](const std::array<int64_t, 2>& shape) {
    return at::IntArrayRef(shape).slice(2 - rank);
  };
  const at::IntArrayRef of_state = of_rank(state_shape);
  const bool has_c = cell.has_c(), has_bias = t.bias_ih.defined();
  if (B < 1 || B > cpu::kMostStepRows || H == 0 || (has_c && t.h.defined()) != t.c.defined() ||
      has_bias != t.bias_hh.defined() || !is_step_operand(t.input, of_rank(input_shape)) ||
      (t.h.defined() && !is_step_operand(t.h, of_state)) ||
      (t.c.defined() && !is_step_operand(t.c, of_state)) ||
      !is_step_operand(t.weight_ih, {rows, I}) || !is_step_operand(t.weight_hh, {rows, H}) ||
      (has_bias && !(is_step_operand(t.bias_ih, {rows}) && is_step_operand(t.bias_hh, {rows})))) {
    return false;
  }
  const cpu::CellKernels* kernels =
      cpu::find_kernels(int(cell.kind), Storage::kFloat32, cpu::WeightStorage::kAsTensors);
  if (!kernels) return false;
  LayerSizes sizes{};
  sizes.B = B, sizes.I = I, sizes.H = H, sizes.G = cell.gates;
  h_new = at::detail::empty_cpu(of_state, at::kFloat);
  if (has_c) c_new = at::detail::empty_cpu(of_state, at::kFloat);
  cpu::run_step(*kernels, sizes, t, h_new, c_new);
  return true;
}

// Any other step, recorded if a derivative may be asked for: h', and c' of a cell that has one;
// nothing where tensors are not those of a step.
std::vector<at::Tensor> any_step(const CellFacts& cell, const cpu::StepTensors& t, bool need_grad) {
  const int64_t rank = t.input.dim();
  const bool fits = (rank == 1 || rank == 2) && (!t.h.defined() || t.h.dim() == rank) &&
                    (!t.c.defined() || t.c.dim() == rank) &&
                    t.c.defined() == (t.h.defined() && cell.has_c());
  if (!fits) return {};
  WeightNames names;
  std::vector<at::Tensor> weights;
  names.reserve(6), weights.reserve(6);
  const auto add = [&](std::string_view name, const at::Tensor& weight) {
    if (weight.defined()) names.push_back(name), weights.push_back(weight);
  };
  add("weight_ih", t.weight_ih), add("weight_hh", t.weight_hh);
  add("bias_ih", t.bias_ih), add("bias_hh", t.bias_hh);
  add("scale_ih", t.scale_ih), add("scale_hh", t.scale_hh);
  if (need_grad) {
    return record({cell, 1, names, Keep::kEverything}, t.input, t.h, t.c, {}, {}, weights);
  }
  const OpScope scope(t.input);
  const OptionalTensor h = optional(as_layer(t.h)), c = optional(as_layer(t.c));
  const LayerOutputs out = cpu::engine().step(
      check_layer("layer", {cell.name, 1, as_layer(t.input), h, c, weights, names, {}, {}}));
  return {of_rank(out.h_n, rank), of_rank(out.c_n, rank)};
}

// All layers of a module, of plain tensors of any dtype and stride. No value, and nothing was done,
// where tensors do not fit together.
struct StackTensors {
  at::Tensor input;                              // [T, B, I]
  at::Tensor h_0, c_0;                           // [L*D, B, P or H] or undefined: zeros
  at::Tensor lengths, resets;                    // [B], [T, B] or undefined
  std::vector<std::vector<at::Tensor>> weights;  // of each layer: its directions' one by one
  WeightNames names;                             // of the weights of one direction
};
struct StackOptions {
  double dropout;  // between layers
  bool recompute;  // on the way back
  bool need_grad;
};

bool any_needs_grad(std::initializer_list<at::Tensor> tensors, at::TensorList weights) {
  const auto needs = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  return std::any_of(tensors.begin(), tensors.end(), needs) ||
         std::any_of(weights.begin(), weights.end(), needs);
}

LayerOutputs run_layer(const CellFacts& cell, int64_t directions, const StackTensors& t,
                       const at::Tensor& input, const at::Tensor& h_0, const at::Tensor& c_0,
                       const std::vector<at::Tensor>& weights, const StackOptions& options) {
  if (options.need_grad && any_needs_grad({input, h_0, c_0}, weights)) {
    const Keep keep = options.recompute ? Keep::kStates : Keep::kEverything;
    const auto results =
        record({cell, directions, t.names, keep}, input, h_0, c_0, t.lengths, t.resets, weights);
    return {results[0], results[1], cell.has_c() ? results[2] : at::Tensor(), {}, {}};
  }
  const OptionalTensor h = optional(h_0), c = optional(c_0);
  const Layer layer = check_layer("layer", {cell.name, directions, input, h, c, weights, t.names,
                                            optional(t.lengths), optional(t.resets)});
  return cpu::engine().forward(layer, Keep::kNothing);
}

std::optional<LayerOutputs> stack_at_once(const CellFacts& cell, int64_t directions,
                                          const StackTensors& t, const StackOptions& options) {
  const int64_t count = int64_t(t.weights.size());
  bool fits = t.input.dim() == 3 && t.input.size(0) > 0 &&
              t.c_0.defined() == (t.h_0.defined() && cell.has_c());
  for (const at::Tensor& state : {t.h_0, t.c_0}) {
    fits = fits && (!state.defined() || (state.dim() == 3 && state.size(0) == count * directions));
  }
  if (!fits) return std::nullopt;
  const auto of_layer = [&](const at::Tensor& state, int64_t i) {
    return !state.defined() || count == 1 ? state : state.narrow(0, i * directions, directions);
  };
  LayerOutputs outputs;
  std::vector<at::Tensor> h_n, c_n;
  at::Tensor input = t.input;
  for (int64_t i = 0; i < count; ++i) {
    outputs = run_layer(cell, directions, t, input, of_layer(t.h_0, i), of_layer(t.c_0, i),
                        t.weights[i], options);
    h_n.push_back(outputs.h_n), c_n.push_back(outputs.c_n);
    input = outputs.output;
    if (options.dropout > 0 && i + 1 < count) input = at::dropout(input, options.dropout, true);
  }
  if (count > 1) outputs.h_n = at::cat(h_n);
  if (count > 1 && cell.has_c()) outputs.c_n = at::cat(c_n);
  return outputs;
}

// ---- on Python's objects ----

// One step, on a cell module's own dictionary of parameters: what is not plainly there (a
// parametrization, a subclass of Tensor) is None here, and left to the op.
py::object step_of_module(const std::string& name, py::handle input, py::handle h, py::handle c,
                          const py::dict& parameters) {
  PythonTensors tensor;
  const at::Tensor& weight_ih = tensor(parameters, "weight_ih");
  const bool has_scales = weight_ih.defined() && weight_ih.scalar_type() == at::kChar;
  const auto scale = [&](const char* key) -> const at::Tensor& {
    return has_scales ? tensor(parameters, key) : tensor(Py_None);
  };
  const cpu::StepTensors t{tensor(input),
                           tensor(h),
                           tensor(c),
                           weight_ih,
                           tensor(parameters, "weight_hh"),
                           tensor(parameters, "bias_ih"),
                           tensor(parameters, "bias_hh"),
                           scale("scale_ih"),
                           scale("scale_hh")};
  if (!tensor.are_plain || !t.input.defined() || !t.weight_ih.defined() || !t.weight_hh.defined() ||
      t.bias_ih.defined() != t.bias_hh.defined()) {
    return py::none();
  }
  const CellFacts cell = find_cell(name);
  at::Tensor h_new, c_new;
  const auto run = [&] {
    if (!tensor.need_grad && step_at_once(cell, t, h_new, c_new)) return true;
    const std::vector<at::Tensor> results = any_step(cell, t, tensor.need_grad);
    if (results.empty()) return false;
    h_new = results[0];
    if (cell.has_c()) c_new = results[1];
    return true;
  };
  if (!unless_refused(run)) return py::none();
  if (!c_new.defined()) return to_python(std::move(h_new));
  return py::make_tuple(to_python(std::move(h_new)), to_python(std::move(c_new)));
}

// "weight_ih" of "weight_ih_l0", as torch.nn.RNNBase names a layer's own.
WeightNames names_of_direction(const std::vector<std::string>& of_layer) {
  WeightNames names;
  for (const std::string_view name : of_layer) names.push_back(name.substr(0, name.find("_l")));
  return names;
}

// The weights of a module's layers, in the lists of names that a torch.nn.RNNBase keeps, one a
// layer and direction. False where one is not in its dictionary, or not in its list
// `_flat_weights`.
bool collect_weights(PythonTensors& tensor, const py::dict& parameters,
                     const std::vector<std::vector<std::string>>& names,
                     const py::list& flat_weights, int64_t directions,
                     std::vector<std::vector<at::Tensor>>& weights) {
  size_t listed = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i % directions == 0) weights.emplace_back();
    for (const std::string& name : names[i]) {
      PyObject* const named = PyDict_GetItemString(parameters.ptr(), name.c_str());
      const bool is_listed = listed < flat_weights.size() &&
                             PyList_GET_ITEM(flat_weights.ptr(), py::ssize_t(listed)) == named;
      weights.back().push_back(tensor(named));
      if (!is_listed || !weights.back().back().defined()) return false;
      ++listed;
    }
  }
  return true;
}

// What a module brings to a call of all its layers.
struct ModuleLayers {
  std::string cell;
  int64_t directions;
  py::dict parameters;
  std::vector<std::vector<std::string>> names;  // of each layer and direction
  py::object flat_weights, dropout, recompute;
};

// The weights, and how they are to be used; no value where Python must be asked.
std::optional<StackOptions> take_module(const ModuleLayers& module, PythonTensors& tensor,
                                        StackTensors& t) {
  if (!is_number(module.dropout) || !is_flag(module.recompute) ||
      !PyList_CheckExact(module.flat_weights.ptr())) {
    return std::nullopt;
  }
  t.names = names_of_direction(module.names.at(0));
  const bool is_complete =
      t.input.defined() && collect_weights(tensor, module.parameters, module.names,
                                           module.flat_weights, module.directions, t.weights);
  if (!is_complete || !tensor.are_plain) return std::nullopt;
  return StackOptions{module.dropout.cast<double>(), module.recompute.cast<bool>(),
                      tensor.need_grad};
}

// (output, h_n, c_n or None), or None.
py::object results_to_python(const std::optional<LayerOutputs>& outputs) {
  if (!outputs) return py::none();
  return py::make_tuple(to_python(outputs->output), to_python(outputs->h_n),
                        to_python(outputs->c_n));
}

// All layers of a module, (output, h_n, c_n or None); None where Python must be asked.
py::object stack_of_module(const ModuleLayers& module, py::handle batch_first, py::handle input,
                           py::handle h, py::handle c, py::handle lengths, py::handle resets) {
  PythonTensors tensor;
  StackTensors t{tensor(input), tensor(h), tensor(c), tensor(lengths), tensor(resets), {}, {}};
  const std::optional<StackOptions> options = take_module(module, tensor, t);
  if (!options || !is_flag(batch_first) || t.input.dim() < 2 || t.input.dim() > 3) {
    return py::none();
  }
  const bool is_batched = t.input.dim() == 3, is_batch_first = batch_first.cast<bool>();
  if (!is_batched && (t.lengths.defined() || t.resets.defined())) return py::none();
  return results_to_python(unless_refused([&]() -> std::optional<LayerOutputs> {
    if (!is_batched) {
      for (at::Tensor* x : {&t.input, &t.h_0, &t.c_0}) {
        if (x->defined() && x->dim() != 2) return std::nullopt;
        if (x->defined()) *x = x->unsqueeze(1);
      }
    } else if (is_batch_first) {
      t.input = t.input.transpose(0, 1);
      const bool is_matrix = t.resets.defined() && t.resets.dim() == 2;
      if (is_matrix) t.resets = t.resets.t();
    }
    auto outputs = stack_at_once(find_cell(module.cell), module.directions, t, *options);
    if (outputs && !is_batched) {
      for (at::Tensor* x : {&outputs->output, &outputs->h_n, &outputs->c_n}) {
        if (x->defined()) *x = x->squeeze(1);
      }
    } else if (outputs && is_batch_first) {
      outputs->output = outputs->output.transpose(0, 1);
    }
    return outputs;
  }));
}

// The same of a PackedSequence's parts: (data, h_n, c_n or None).
py::object packed_stack_of_module(const ModuleLayers& module, py::handle data,
                                  py::handle batch_sizes, py::handle sorted_indices,
                                  py::handle unsorted_indices, py::handle h, py::handle c) {
  PythonTensors tensor;
  StackTensors t{tensor(data), tensor(h), tensor(c), {}, {}, {}, {}};
  const PackedRows packed{t.input, tensor(batch_sizes), tensor(sorted_indices),
                          tensor(unsorted_indices)};
  const std::optional<StackOptions> options = take_module(module, tensor, t);
  if (!options) return py::none();
  return results_to_python(unless_refused([&]() -> std::optional<LayerOutputs> {
    const std::optional<PaddedRows> padded = pad(packed);
    if (!padded) return std::nullopt;
    t.input = padded->data, t.lengths = padded->lengths;
    for (at::Tensor* x : {&t.h_0, &t.c_0}) {
      if (!x->defined()) continue;
      if (x->dim() != 3 || x->size(1) != t.input.size(1)) return std::nullopt;
      if (packed.sorted_indices.defined()) *x = x->index_select(1, packed.sorted_indices);
    }
    auto outputs = stack_at_once(find_cell(module.cell), module.directions, t, *options);
    if (!outputs) return std::nullopt;
    outputs->output = pack(outputs->output, *padded);
    for (at::Tensor* x : {&outputs->h_n, &outputs->c_n}) {
      const bool is_sorted = x->defined() && packed.unsorted_indices.defined();
      if (is_sorted) *x = x->index_select(1, packed.unsorted_indices);
    }
    return outputs;
  }));
}

}  // namespace

void bind_at_once(py::module_& module) {
  module.def("step_at_once", torch::wrap_pybind_function(step_of_module),
             "One step of a cell module: its new states, or None where only the op can tell.");
  using Names = std::vector<std::vector<std::string>>;
  const auto stack = [](const std::string& cell, int64_t directions, const py::dict& parameters,
                        const Names& names, const py::object& flat_weights,
                        const py::object& dropout, const py::object& recompute,
                        py::handle batch_first, py::handle input, py::handle h, py::handle c,
                        py::handle lengths, py::handle resets) {
    return stack_of_module({cell, directions, parameters, names, flat_weights, dropout, recompute},
                           batch_first, input, h, c, lengths, resets);
  };
  module.def(
      "stack_at_once", torch::wrap_pybind_function(stack),
      "All layers of a module: (output, h_n, c_n or None), or None where only the op can tell.");
  const auto packed = [](const std::string& cell, int64_t directions, const py::dict& parameters,
                         const Names& names, const py::object& flat_weights,
                         const py::object& dropout, const py::object& recompute, py::handle data,
                         py::handle batch_sizes, py::handle sorted_indices,
                         py::handle unsorted_indices, py::handle h, py::handle c) {
    return packed_stack_of_module(
        {cell, directions, parameters, names, flat_weights, dropout, recompute}, data, batch_sizes,
        sorted_indices, unsorted_indices, h, c);
  };
  module.def("packed_stack_at_once", torch::wrap_pybind_function(packed),
             "The same of a PackedSequence's parts: (data, h_n, c_n or None), or None.");
}

}  // namespace fastcells
