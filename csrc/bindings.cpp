// The only file that knows Python: the ops' schemas (TORCH_LIBRARY) and plain queries (pybind11).
#include <ATen/Config.h>
#include <ATen/Parallel.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include "checks.h"
#include "recurrent/cpu/engine.h"
#include "cpu/instruction_set.h"
#include "recurrent/cpu/packs.h"
#include "ops.h"
#include "recurrent/layer.h"

#ifdef FASTCELLS_WITH_CUDA
#include <cuda_runtime_api.h>

#include "recurrent/cuda/engine.h"
#endif

TORCH_LIBRARY(fastcells, m) {
  m.def(
      "recurrent_forward(str cell, int directions, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, Tensor? lengths, Tensor? resets, str keep) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved)");
  m.def(
      "recurrent_backward(str cell, int directions, Tensor? grad_output, Tensor? grad_h_n, "
      "Tensor? grad_c_n, Tensor? grad_cells, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, Tensor? lengths, Tensor? resets, Tensor output, Tensor cells, "
      "Tensor saved, bool[] needs) "
      "-> (Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)");
  m.def(
      "recurrent_step(str cell, Tensor input, Tensor? h, Tensor? c, Tensor[] weights) "
      "-> (Tensor h, Tensor c)");
  m.def(
      "attention_forward(Tensor query, Tensor key, Tensor value, Tensor? mask, "
      "Tensor? key_lengths, Tensor? seed, float scale, float softcap, int left, int right, "
      "int offset, float dropout_p, bool return_weights) "
      "-> (Tensor output, Tensor logsumexp, Tensor weights)");
  m.def(
      "attention_backward(Tensor grad_output, Tensor? grad_weights, Tensor query, Tensor key, "
      "Tensor value, Tensor? mask, Tensor? key_lengths, Tensor? seed, Tensor output, "
      "Tensor logsumexp, float scale, float softcap, int left, int right, int offset, "
      "float dropout_p, bool needs_mask_grad) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_mask)");
  m.def(
      "additive_attention_forward(Tensor query, Tensor key, Tensor value, Tensor scale, "
      "Tensor? mask, Tensor? key_lengths, Tensor? seed, float dropout_p, bool return_weights) "
      "-> (Tensor output, Tensor logsumexp, Tensor weights)");
  m.def(
      "additive_attention_backward(Tensor grad_output, Tensor? grad_weights, Tensor query, "
      "Tensor key, Tensor value, Tensor scale, Tensor? mask, Tensor? key_lengths, Tensor? seed, "
      "Tensor output, Tensor logsumexp, float dropout_p, bool needs_mask_grad) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_scale, "
      "Tensor grad_mask)");
}

namespace {

void refuse_tangent(const c10::OperatorHandle& op, const at::Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(!tensor.defined() || !tensor._fw_grad(/*level=*/0).defined(),
                              op.operator_name(),
                              ": forward-mode derivatives (jvp) are not implemented by the op; "
                              "fastcells.functional and the layers take them");
}

// The ops have no forward mode, and a tangent would be lost without a word. This stands above the
// kernels, at a key that every tensor outside inference mode passes, where tangents are still seen.
void refuse_tangents(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                     torch::jit::Stack* stack) {
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) refuse_tangent(op, argument.toTensor());
    if (argument.isTensorList()) {
      for (const at::Tensor& tensor : argument.toTensorVector()) refuse_tangent(op, tensor);
    }
  }
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastcells, ADInplaceOrView, m) {
  for (const char* op :
       {"recurrent_forward", "recurrent_backward", "recurrent_step", "attention_forward",
        "attention_backward", "additive_attention_forward", "additive_attention_backward"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&refuse_tangents>());
  }
}

TORCH_LIBRARY_IMPL(fastcells, CPU, m) {
  m.impl("recurrent_forward", fastcells::recurrent_forward_cpu);
  m.impl("recurrent_backward", fastcells::recurrent_backward_cpu);
  m.impl("recurrent_step", fastcells::recurrent_step_cpu);
  m.impl("attention_forward", fastcells::attention_forward_cpu);
  m.impl("attention_backward", fastcells::attention_backward_cpu);
  m.impl("additive_attention_forward", fastcells::additive_attention_forward_cpu);
  m.impl("additive_attention_backward", fastcells::additive_attention_backward_cpu);
}

#ifdef FASTCELLS_WITH_CUDA
TORCH_LIBRARY_IMPL(fastcells, CUDA, m) {
  m.impl("recurrent_forward", fastcells::recurrent_forward_cuda);
  m.impl("recurrent_backward", fastcells::recurrent_backward_cuda);
  m.impl("recurrent_step", fastcells::recurrent_step_cuda);
  m.impl("attention_forward", fastcells::attention_forward_cuda);
  m.impl("attention_backward", fastcells::attention_backward_cuda);
  m.impl("additive_attention_forward", fastcells::additive_attention_forward_cuda);
  m.impl("additive_attention_backward", fastcells::additive_attention_backward_cuda);
}
#endif

namespace {

namespace py = pybind11;

// What this library was built from.
py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = __VERSION__;
  info["openmp"] =
#ifdef _OPENMP
      true;
#else
      false;
#endif
#ifdef FASTCELLS_WITH_CUDA
  info["cuda"] = CUDART_VERSION;  // 13000 for 13.0
#else
  info["cuda"] = py::none();
#endif
  return info;
}

// {name: {gates, states, saved}} of every cell the kernels know.
py::dict cells() {
  py::dict all;
  for (const fastcells::CellFacts& cell : fastcells::all_cells()) {
    py::dict facts;
    facts["gates"] = cell.gates;
    facts["states"] = cell.states;
    facts["saved"] = cell.saved;
    all[cell.name] = facts;
  }
  return all;
}

// A layer as `explain` asks for it: sizes are T, B, I, H.
fastcells::LayerSizes sizes_of(const fastcells::CellFacts& cell, int64_t directions,
                               const std::array<int64_t, 4>& sizes) {
  fastcells::LayerSizes s{};
  s.T = sizes[0], s.B = sizes[1], s.I = sizes[2], s.H = sizes[3];
  s.G = cell.gates, s.D = directions;
  return s;
}
using Explanation = std::tuple<std::string, std::string, std::string>;

// The engine and plan of a call on the CPU: cpu/engine.h.
Explanation explain_cpu(const std::string& name, int64_t directions, std::array<int64_t, 4> sizes,
                        at::ScalarType dtype, bool is_projected, bool is_training, bool is_step) {
  const fastcells::CellFacts cell = fastcells::find_cell(name);
  const auto choice = fastcells::cpu::explain(cell, fastcells::storage_of("explain_cpu", dtype),
                                              sizes_of(cell, directions, sizes), is_projected,
                                              is_training, is_step);
  return {choice.engine, choice.plan, choice.why};
}

#ifdef FASTCELLS_WITH_CUDA
// The engine and plan of a call on the current CUDA device: cuda/engine.h.
Explanation explain_cuda(const std::string& name, int64_t directions, std::array<int64_t, 4> sizes,
                         at::ScalarType dtype, bool is_projected, bool is_training) {
  const fastcells::CellFacts cell = fastcells::find_cell(name);
  const auto choice =
      fastcells::cuda::explain(cell, fastcells::storage_of("explain_cuda", dtype),
                               sizes_of(cell, directions, sizes), is_projected, is_training);
  return {choice.engine, choice.plan, choice.why};
}
#endif

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

// recurrent/cpu/engine.h: step_at_once, on a cell module's own dictionary of parameters: what is not plainly
// there (a parametrization, a subclass of Tensor) is None here, and left to the op.
py::object step_at_once(const std::string& cell, py::handle input, py::handle h, py::handle c,
                        const py::dict& parameters) {
  PlainTensors tensor;
  const fastcells::cpu::StepTensors tensors{tensor(input.ptr()),
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
    if (!fastcells::cpu::step_at_once(fastcells::find_cell(cell), tensors, h_new, c_new)) {
      h_new = at::Tensor();
    }
  }
  if (!h_new.defined()) return py::none();
  if (!c_new.defined()) return wrapped(std::move(h_new));
  return py::make_tuple(wrapped(std::move(h_new)), wrapped(std::move(c_new)));
}

// recurrent/cpu/engine.h: stack_at_once, on a module's own dictionary of parameters, in the lists of names
// that a torch.nn.RNNBase keeps: one a layer and direction. None where the op must be asked.
py::object stack_at_once(const std::string& cell, int64_t directions, bool is_batch_first,
                         py::handle input, py::handle h, py::handle c, py::handle lengths,
                         py::handle resets, const py::dict& parameters,
                         const std::vector<std::vector<std::string>>& names) {
  PlainTensors tensor;
  fastcells::cpu::StackTensors tensors{tensor(input.ptr()),   tensor(h.ptr()),      tensor(c.ptr()),
                                       tensor(lengths.ptr()), tensor(resets.ptr()), {}};
  bool is_complete = tensors.input.defined() && tensors.input.dim() == 3;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i % directions == 0) tensors.weights.emplace_back();
    for (const std::string& name : names[i]) {
      const at::Tensor& weight = tensor(parameters, name.c_str());
      is_complete = is_complete && weight.defined();
      tensors.weights.back().push_back(weight);
    }
  }
  if (!tensor.is_plain || !is_complete) return py::none();
  std::optional<fastcells::LayerOutputs> outputs;
  {
    const py::gil_scoped_release no_gil;
    if (is_batch_first) {
      tensors.input = tensors.input.transpose(0, 1);
      const bool is_matrix = tensors.resets.defined() && tensors.resets.dim() == 2;
      if (is_matrix) tensors.resets = tensors.resets.t();
    }
    outputs = fastcells::cpu::stack_at_once(fastcells::find_cell(cell), directions, tensors);
    if (outputs && is_batch_first) outputs->output = outputs->output.transpose(0, 1);
  }
  if (!outputs) return py::none();
  return py::make_tuple(wrapped(outputs->output), wrapped(outputs->h_n), wrapped(outputs->c_n));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastcells; the ops are under torch.ops.fastcells.";
  m.def("build_info", &build_info, "What this library was built from.");
  m.def("explain_cpu", &explain_cpu, py::arg("cell"), py::arg("directions"), py::arg("sizes"),
        py::arg("dtype"), py::arg("is_projected"), py::arg("is_training"), py::arg("is_step"),
        "(engine, plan, why not a faster one) of a layer on the CPU; sizes are T, B, I, H.");
  m.def("step_at_once", &step_at_once,
        "One step of a cell module: its new states, or None where only the op can tell.");
#ifdef FASTCELLS_WITH_CUDA
  m.def("explain_cuda", &explain_cuda, py::arg("cell"), py::arg("directions"), py::arg("sizes"),
        py::arg("dtype"), py::arg("is_projected"), py::arg("is_training"),
        "(engine, plan, why not a faster one) of a layer on the current CUDA device.");
#endif
  m.def("stack_at_once", &stack_at_once,
        "All layers of a module: (output, h_n, c_n or None), or None where only the op can tell.");
  m.def(
      "instruction_set", [] { return fastcells::cpu::instruction_set().name; },
      "The instruction set of the CPU kernels: baseline, avx2 or avx512.");
  m.def("packed_bytes", &fastcells::cpu::packed_bytes,
        "Bytes of weights packed for the CPU kernels, of weights that are alive.");
  m.def("cells", &cells, "Gates, states and saved values of every cell the kernels know.");
}
