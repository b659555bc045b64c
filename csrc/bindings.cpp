// The ops' schemas (TORCH_LIBRARY) and the module fastcells._C with its plain queries (pybind11).
// Only this file and at_once.cpp of the topics and python_tensors know Python.
#include <ATen/Config.h>
#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include "attention/args.h"
#include "attention/at_once.h"
#include "checks.h"
#include "cpu/instruction_set.h"
#include "ops.h"
#include "recurrent/at_once.h"
#include "recurrent/compiled/cuda/layout.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/cpu/packs.h"
#include "recurrent/elementwise/engine.h"
#include "recurrent/layer.h"
#include "scan/at_once.h"

#ifdef FASTCELLS_WITH_CUDA
#include <cuda_runtime_api.h>

#include "recurrent/compiled/cuda/kernels.h"
#include "recurrent/cuda/engine.h"
#endif

TORCH_LIBRARY(fastcells, m) {
  m.def(
      "recurrent_forward(str cell, int directions, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, str names, Tensor? lengths, Tensor? resets, str keep) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved)");
  m.def(
      "recurrent_backward(str cell, int directions, Tensor? grad_output, Tensor? grad_h_n, "
      "Tensor? grad_c_n, Tensor? grad_cells, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, str names, Tensor? lengths, Tensor? resets, Tensor output, "
      "Tensor cells, Tensor saved, bool[] needs) "
      "-> (Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)");
  m.def(
      "recurrent_step(str cell, Tensor input, Tensor? h, Tensor? c, Tensor[] weights, "
      "str names) "
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
  m.def(
      "linear_scan(Tensor a, Tensor b, Tensor? h_0, Tensor? lengths, Tensor? resets, "
      "bool batch_first, bool reverse, bool adjoint) -> Tensor h");
  m.def(
      "linear_scan_backward(Tensor grad_h, Tensor a, Tensor h, Tensor? h_0, Tensor? lengths, "
      "Tensor? resets, bool batch_first, bool reverse, bool[] needs) "
      "-> (Tensor grad_a, Tensor grad_b, Tensor grad_h_0)");
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
  for (const char* op : {"recurrent_forward", "recurrent_backward", "recurrent_step",
                         "attention_forward", "attention_backward", "additive_attention_forward",
                         "additive_attention_backward", "linear_scan", "linear_scan_backward"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&refuse_tangents>());
  }
}

namespace {

void implement_ops(torch::Library& m) {
  m.impl("recurrent_forward", fastcells::recurrent_forward);
  m.impl("recurrent_backward", fastcells::recurrent_backward);
  m.impl("recurrent_step", fastcells::recurrent_step);
  m.impl("attention_forward", fastcells::attention_forward);
  m.impl("attention_backward", fastcells::attention_backward);
  m.impl("additive_attention_forward", fastcells::additive_attention_forward);
  m.impl("additive_attention_backward", fastcells::additive_attention_backward);
  m.impl("linear_scan", fastcells::linear_scan);
  m.impl("linear_scan_backward", fastcells::linear_scan_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastcells, CPU, m) { implement_ops(m); }
#ifdef FASTCELLS_WITH_CUDA
TORCH_LIBRARY_IMPL(fastcells, CUDA, m) { implement_ops(m); }
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

// {name: {gates, states, saved, is_elementwise}} of every cell the kernels know.
py::dict cells() {
  py::dict all;
  for (const fastcells::CellFacts& cell : fastcells::all_cells()) {
    py::dict facts;
    facts["gates"] = cell.gates;
    facts["states"] = cell.states;
    facts["saved"] = cell.saved;
    facts["is_elementwise"] = cell.is_elementwise;
    all[cell.name] = facts;
  }
  return all;
}

// Takes the library of a compiled cell, whose function `entry` (its address) gives it.
void take_cell(std::uintptr_t entry) {
  using Entry = const fastcells::compiled::CellLibrary* (*)();
  fastcells::compiled::take(*reinterpret_cast<Entry>(entry)());
}

#ifdef FASTCELLS_WITH_CUDA
// Takes the image of a compiled cell's CUDA kernels; `constants` are those of its struct.
void take_image(const std::string& name, const std::map<std::string, int>& constants,
                at::ScalarType dtype, int compute, const py::bytes& image) {
  const int place = fastcells::compiled::declare(fastcells::compiled::facts_of(name, constants));
  fastcells::compiled::take_image(fastcells::CellKind(fastcells::compiled::kFirst + place),
                                  fastcells::storage_of("take_image", dtype), compute,
                                  std::string(image));
}
#endif

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
                        at::ScalarType dtype, bool is_projected, bool is_training, bool has_rows,
                        std::optional<at::ScalarType> weights, bool is_rowwise) {
  const fastcells::CellFacts cell = fastcells::find_cell(name);
  const auto choice = fastcells::cpu::explain(
      cell, fastcells::storage_of("explain_cpu", dtype),
      fastcells::cpu::weight_storage(weights.value_or(dtype), dtype),
      sizes_of(cell, directions, sizes), is_projected, is_training, has_rows, is_rowwise);
  return {choice.engine, choice.plan, choice.why};
}

// Freezes a weight of gates and its bias, and packs them (unless `name` is empty), or ends that.
void freeze_weight(const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   const std::string& name, bool frozen) {
  TORCH_CHECK_VALUE(weight.is_cpu() && (!bias || bias->is_cpu()),
                    "fastcells: only weights on a CPU are packed, got ", weight.device());
  fastcells::cpu::freeze(weight, frozen);
  if (bias) fastcells::cpu::freeze(*bias, frozen);
  if (name.empty()) return;
  const fastcells::CellFacts cell = fastcells::find_cell(name);
  if (cell.is_elementwise) {
    const bool is_matrix = weight.dim() == 2 && weight.is_contiguous();
    if (frozen && is_matrix) {
      fastcells::elementwise::pack(cell, weight, bias.value_or(at::Tensor()));
    }
    return;
  }
  const auto* kernels = fastcells::cpu::find_kernels(
      int(cell.kind), fastcells::storage_of("freeze", weight.scalar_type()),
      fastcells::cpu::WeightStorage::kAsTensors);
  if (!frozen || !kernels || !weight.is_contiguous()) return;
  fastcells::cpu::pack_gates(*kernels, cell.gates, weight, {}, bias.value_or(at::Tensor()));
}

#ifdef FASTCELLS_WITH_CUDA
// The engine and plan of a call on the current CUDA device: cuda/engine.h.
Explanation explain_cuda(const std::string& name, int64_t directions, std::array<int64_t, 4> sizes,
                         at::ScalarType dtype, bool is_projected, bool is_training,
                         bool is_rowwise) {
  const fastcells::CellFacts cell = fastcells::find_cell(name);
  const auto choice = fastcells::cuda::explain(cell, fastcells::storage_of("explain_cuda", dtype),
                                               sizes_of(cell, directions, sizes), is_projected,
                                               is_training, is_rowwise);
  return {choice.engine, choice.plan, choice.why};
}
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastcells; the ops are under torch.ops.fastcells.";
  m.def("build_info", &build_info, "What this library was built from.");
  m.def("explain_cpu", &explain_cpu, py::arg("cell"), py::arg("directions"), py::arg("sizes"),
        py::arg("dtype"), py::arg("is_projected"), py::arg("is_training"), py::arg("has_rows"),
        py::arg("weights") = py::none(), py::arg("is_rowwise") = false,
        "(engine, plan, why not a faster one) of a layer on the CPU; sizes are T, B, I, H.");
  m.attr("MOST_HEAD_WIDTH_CUDA") = fastcells::kMostHeadWidthCuda;
  fastcells::bind_at_once(m);
  fastcells::bind_attention_at_once(m);
  fastcells::bind_scan_at_once(m);
#ifdef FASTCELLS_WITH_CUDA
  m.def("explain_cuda", &explain_cuda, py::arg("cell"), py::arg("directions"), py::arg("sizes"),
        py::arg("dtype"), py::arg("is_projected"), py::arg("is_training"), py::arg("is_rowwise"),
        "(engine, plan, why not a faster one) of a layer on the current CUDA device.");
  m.def("take_image", &take_image, py::arg("name"), py::arg("constants"), py::arg("dtype"),
        py::arg("compute"), py::arg("image"),
        "Takes the CUDA kernels of a compiled cell: compiled/cuda/kernels.h.");
#endif
  m.def(
      "instruction_set", [] { return fastcells::cpu::name_of(fastcells::cpu::instruction_set()); },
      "The instruction set of the CPU kernels: baseline, avx2 or avx512.");
  m.def("freeze", &freeze_weight, py::arg("weight"), py::arg("bias"), py::arg("cell"),
        py::arg("frozen"), "The user's word on a weight and its bias (or None): cpu/packs.h.");
  m.def("is_frozen", &fastcells::cpu::is_frozen, "Whether a weight is frozen.");
  m.def("packed_bytes", &fastcells::cpu::packed_bytes,
        "Bytes of weights packed for the CPU kernels, of weights that are alive.");
  m.def("take_cell", &take_cell, py::arg("entry"),
        "Takes a compiled cell: the address of its library's function, compiled/library.h.");
  m.attr("CUDA_LAYOUT") = fastcells::compiled::kCudaLayout;
  m.def("cells", &cells, "Gates, states and saved values of every cell the kernels know.");
}
