#include "recurrent/cpu/at_once.h"

#include <ATen/EmptyTensor.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "cpu/team.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/cpu/single_step.h"

namespace fastcells::cpu {
namespace {

// ---- on tensors ----

// A tensor in main memory with nothing to it but its values: no derivative may be asked for.
bool is_plain(const at::Tensor& x) {
  constexpr c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                        c10::DispatchKey::AutocastCPU,
                                        c10::DispatchKey::ADInplaceOrView});
  return kPlain.has_all(x.key_set()) && !(at::GradMode::is_enabled() && x.requires_grad()) &&
         !x._fw_grad(/*level=*/0).defined();
}
bool is_plain(const at::Tensor& x, at::IntArrayRef shape) {
  return is_plain(x) && x.scalar_type() == at::kFloat && x.sizes() == shape && x.is_contiguous();
}

// One step of contiguous float32 tensors, without a way back and without a look at what does not
// matter there: h' and c' (undefined for a cell without c), shaped like h. False, and nothing was
// done, for anything that is not exactly that; the op then does it, or says what is wrong.
bool step_at_once(const CellFacts& cell, const StepTensors& t, at::Tensor& h_new,
                  at::Tensor& c_new) {
  const int64_t rank = t.input.dim();
  if (rank < 1 || rank > 2 || t.weight_ih.dim() != 2 || t.weight_hh.dim() != 2) return false;
  const int64_t B = rank == 2 ? t.input.size(0) : 1, I = t.input.size(-1);
  const int64_t H = t.weight_hh.size(1), rows = cell.gates * H;
  const std::array<int64_t, 2> state_shape{B, H}, input_shape{B, I};
  const auto of_rank = [&](const std::array<int64_t, 2>& shape) {
    return at::IntArrayRef(shape).slice(2 - rank);
  };
  const bool has_c = cell.states == 2, has_bias = t.bias_ih.defined();
  if (B < 1 || B > kMostStepRows || H == 0 || has_c != t.c.defined() ||
      has_bias != t.bias_hh.defined() || !is_plain(t.input, of_rank(input_shape)) ||
      !is_plain(t.h, of_rank(state_shape)) || !is_plain(t.weight_ih, {rows, I}) ||
      !is_plain(t.weight_hh, {rows, H}) || (has_c && !is_plain(t.c, of_rank(state_shape))) ||
      (has_bias && !(is_plain(t.bias_ih, {rows}) && is_plain(t.bias_hh, {rows})))) {
    return false;
  }
  const CellKernels* kernels = cell_table().find(int(cell.kind), Storage::kFloat32);
  if (!kernels) return false;
  LayerSizes sizes{};
  sizes.B = B, sizes.I = I, sizes.H = H, sizes.G = cell.gates;
  h_new = at::detail::empty_cpu(t.h.sizes(), at::kFloat);
  if (has_c) c_new = at::detail::empty_cpu(t.h.sizes(), at::kFloat);
  run_step(*kernels, sizes, t, h_new, c_new);
  return true;
}

// All layers of a module, without a way back, as step_at_once: of plain tensors of any dtype and
// stride. No value, and nothing was done, for anything else or where tensors do not fit together.
struct StackTensors {
  at::Tensor input;                              // [T, B, I]
  at::Tensor h_0, c_0;                           // [L*D, B, P or H] or undefined: zeros
  at::Tensor lengths, resets;                    // [B], [T, B] or undefined
  std::vector<std::vector<at::Tensor>> weights;  // of each layer: its directions' one by one
  WeightNames names;                             // of the weights of one direction
};
std::optional<LayerOutputs> stack_at_once(const CellFacts& cell, int64_t directions,
                                          const StackTensors& t) {
  const auto is_absent_or_plain = [](const at::Tensor& x) { return !x.defined() || is_plain(x); };
  bool fits = is_plain(t.input) && t.input.dim() == 3 && t.input.size(0) > 0 &&
              is_absent_or_plain(t.h_0) && is_absent_or_plain(t.c_0) &&
              is_absent_or_plain(t.lengths) && is_absent_or_plain(t.resets) &&
              t.c_0.defined() == (t.h_0.defined() && cell.states == 2);
  for (const auto& layer : t.weights) {
    for (const at::Tensor& weight : layer) fits = fits && is_plain(weight);
  }
  const int64_t count = int64_t(t.weights.size());
  for (const at::Tensor& state : {t.h_0, t.c_0}) {
    fits = fits && (!state.defined() || (state.dim() == 3 && state.size(0) == count * directions));
  }
  if (!fits) return std::nullopt;
  LayerOutputs outputs;
  std::vector<at::Tensor> h_n, c_n;
  at::Tensor input = t.input;
  try {
    for (int64_t i = 0; i < count; ++i) {
      const auto of_layer = [&](const at::Tensor& state) -> OptionalTensor {
        if (!state.defined()) return std::nullopt;
        return count == 1 ? state : state.narrow(0, i * directions, directions);
      };
      const Layer layer =
          check_layer("layer", {cell.name, directions, input, of_layer(t.h_0), of_layer(t.c_0),
                                t.weights[i], t.names, t.lengths, t.resets});
      outputs = engine().forward(layer, Keep::kNothing);
      h_n.push_back(outputs.h_n), c_n.push_back(outputs.c_n);
      input = outputs.output;
    }
  } catch (const c10::Error&) {
    return std::nullopt;  // the way through Python finds it too, and says it in the user's words
  }
  if (count > 1) outputs.h_n = at::cat(h_n);
  if (count > 1 && cell.states == 2) outputs.c_n = at::cat(c_n);
  return outputs;
}

// ---- on Python's objects ----

namespace py = pybind11;

// Whether torch would do anything to a call besides computing it: a mode, a transform, a tracer,
// autocast, a profiler.
bool is_watched() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  constexpr c10::DispatchKeySet kUsual(
      {c10::DispatchKey::BackendSelect, c10::DispatchKey::ADInplaceOrView});
  return !kUsual.has_all(included) || at::autocast::is_autocast_enabled(at::kCPU) ||
         at::impl::torch_function_mode_enabled() || at::hasCallbacks() ||
         c10::impl::TorchDispatchModeTLS::any_modes_set();
}

// Tensors out of Python's objects, undefined for None. `is_plain` ends when one is neither, as a
// subclass of Tensor is, and begins only where nothing watches.
class PlainTensors {
 public:
  const at::Tensor& operator()(PyObject* object) {
    static const at::Tensor absent;
    if (object && THPVariable_CheckExact(object)) return THPVariable_Unpack(object);
    is_plain = is_plain && object == Py_None;
    return absent;
  }
  const at::Tensor& operator()(const py::dict& parameters, const char* name) {
    return (*this)(PyDict_GetItemString(parameters.ptr(), name));
  }
  bool is_plain = !is_watched();
};

py::object wrapped(at::Tensor tensor) {
  if (!tensor.defined()) return py::none();
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(tensor)));
}

// step_at_once, on a cell module's own dictionary of parameters: what is
// not plainly there (a parametrization, a subclass of Tensor) is None here, and left to the op.
py::object step_of_module(const std::string& cell, py::handle input, py::handle h, py::handle c,
                          const py::dict& parameters) {
  PlainTensors tensor;
  const StepTensors tensors{tensor(input.ptr()),
                            tensor(h.ptr()),
                            tensor(c.ptr()),
                            tensor(parameters, "weight_ih"),
                            tensor(parameters, "weight_hh"),
                            tensor(parameters, "bias_ih"),
                            tensor(parameters, "bias_hh")};
  if (!tensor.is_plain || !tensors.input.defined() || !tensors.h.defined() ||
      !tensors.weight_ih.defined() || !tensors.weight_hh.defined()) {
    return py::none();
  }
  at::Tensor h_new, c_new;
  {
    const py::gil_scoped_release no_gil;
    if (!step_at_once(find_cell(cell), tensors, h_new, c_new)) {
      h_new = at::Tensor();
    }
  }
  if (!h_new.defined()) return py::none();
  if (!c_new.defined()) return wrapped(std::move(h_new));
  return py::make_tuple(wrapped(std::move(h_new)), wrapped(std::move(c_new)));
}

// "weight_ih" of "weight_ih_l0", as torch.nn.RNNBase names a layer's own.
WeightNames names_of_direction(const std::vector<std::string>& of_layer) {
  WeightNames names;
  for (const std::string_view name : of_layer) names.push_back(name.substr(0, name.find("_l")));
  return names;
}

// stack_at_once, on a module's own dictionary of parameters, in the lists of names that a
// torch.nn.RNNBase keeps: one a layer and direction. None where the op must be asked.
py::object stack_of_module(const std::string& cell, int64_t directions, bool is_batch_first,
                           py::handle input, py::handle h, py::handle c, py::handle lengths,
                           py::handle resets, const py::dict& parameters,
                           const std::vector<std::vector<std::string>>& names,
                           const py::list& flat_weights) {
  PlainTensors tensor;
  StackTensors tensors{tensor(input.ptr()),
                       tensor(h.ptr()),
                       tensor(c.ptr()),
                       tensor(lengths.ptr()),
                       tensor(resets.ptr()),
                       {},
                       names_of_direction(names.at(0))};
  bool is_complete = tensors.input.defined() && tensors.input.dim() == 3;
  size_t listed = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i % directions == 0) tensors.weights.emplace_back();
    for (const std::string& name : names[i]) {
      PyObject* const named = PyDict_GetItemString(parameters.ptr(), name.c_str());
      const at::Tensor& weight = tensor(named);
      const bool is_listed = listed < flat_weights.size() &&
                             PyList_GET_ITEM(flat_weights.ptr(), py::ssize_t(listed)) == named;
      is_complete = is_complete && weight.defined() && is_listed, ++listed;
      tensors.weights.back().push_back(weight);
    }
  }
  if (!tensor.is_plain || !is_complete) return py::none();
  std::optional<LayerOutputs> outputs;
  {
    const py::gil_scoped_release no_gil;
    const SerialInForkedChild guard;
    if (is_batch_first) {
      tensors.input = tensors.input.transpose(0, 1);
      const bool is_matrix = tensors.resets.defined() && tensors.resets.dim() == 2;
      if (is_matrix) tensors.resets = tensors.resets.t();
    }
    outputs = stack_at_once(find_cell(cell), directions, tensors);
    if (outputs && is_batch_first) outputs->output = outputs->output.transpose(0, 1);
  }
  if (!outputs) return py::none();
  return py::make_tuple(wrapped(outputs->output), wrapped(outputs->h_n), wrapped(outputs->c_n));
}

}  // namespace

void bind_at_once(py::module_& module) {
  module.def("step_at_once", &step_of_module,
             "One step of a cell module: its new states, or None where only the op can tell.");
  module.def(
      "stack_at_once", &stack_of_module,
      "All layers of a module: (output, h_n, c_n or None), or None where only the op can tell.");
}

}  // namespace fastcells::cpu
