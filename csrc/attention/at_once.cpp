#include "attention/at_once.h"

#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>

#include "attention/layers.h"
#include "attention/way_back.h"
#include "python_tensors.h"

namespace fastcells {
namespace {

bool is_number(py::handle value) {
  return PyFloat_CheckExact(value.ptr()) || PyLong_CheckExact(value.ptr());
}

// The results as Python has them: output, or output and weights.
py::object to_python(const std::vector<at::Tensor>& results) {
  if (results.empty()) return py::none();
  if (results.size() == 1) return fastcells::to_python(results[0]);
  return py::make_tuple(fastcells::to_python(results[0]), fastcells::to_python(results[1]));
}

// scaled_dot_product_attention without grouped heads, window or another alignment; None where the
// way through Python must be asked.
py::object dot_at_once(py::handle query, py::handle key, py::handle value, py::handle mask,
                       py::handle key_lengths, bool return_weights, bool is_causal,
                       py::handle dropout_p, py::handle scale, py::handle softcap) {
  PythonTensors tensor;
  AttentionTensors t{tensor(query),       tensor(key), tensor(value), {}, tensor(mask),
                     tensor(key_lengths), {}};
  const bool are_numbers = is_number(dropout_p) && (scale.is_none() || is_number(scale)) &&
                           (softcap.is_none() || is_number(softcap));
  if (!tensor.are_plain || !are_numbers || (is_causal && t.mask.defined())) return py::none();
  using MaybeDouble = std::optional<double>;
  const DotCall call{scale.cast<MaybeDouble>(), softcap.cast<MaybeDouble>(),
                     dropout_p.cast<double>(), is_causal, return_weights};
  return to_python(unless_refused([&] { return attend_dot(t, call, tensor.need_grad); }));
}

py::object additive_at_once(py::handle query, py::handle key, py::handle value, py::handle scale,
                            py::handle mask, py::handle key_lengths, bool return_weights,
                            py::handle dropout_p) {
  PythonTensors tensor;
  AttentionTensors t{tensor(query),       tensor(key), tensor(value), tensor(scale), tensor(mask),
                     tensor(key_lengths), {}};
  if (!tensor.are_plain || !is_number(dropout_p)) return py::none();
  return to_python(unless_refused([&] {
    return attend_additive(t, dropout_p.cast<double>(), return_weights, tensor.need_grad);
  }));
}

// A whole MultiheadAttention without added keys, on its own dictionaries of parameters: (output,
// weights or None).
py::object multihead_at_once(py::handle query, py::handle key, py::handle value, py::handle padding,
                             py::handle mask, const py::dict& parameters,
                             const py::dict& out_parameters, int64_t embed_dim, int64_t heads,
                             bool batch_first, double dropout_p, bool need_weights,
                             bool average_weights) {
  PythonTensors tensor;
  const Multihead call{tensor(query),
                       tensor(key),
                       tensor(value),
                       tensor(padding),
                       tensor(mask),
                       tensor(parameters, "in_proj_weight"),
                       tensor(parameters, "in_proj_bias"),
                       tensor(out_parameters, "weight"),
                       tensor(out_parameters, "bias"),
                       embed_dim,
                       heads,
                       batch_first,
                       dropout_p,
                       need_weights,
                       average_weights};
  if (!tensor.are_plain) return py::none();
  const auto results = unless_refused([&] { return run_multihead(call, tensor.need_grad); });
  if (results.empty()) return py::none();
  return py::make_tuple(fastcells::to_python(results[0]),
                        results.size() > 1 ? fastcells::to_python(results[1]) : py::none());
}

// A whole SelfAttention without lengths, on the dictionaries of parameters of its three maps.
py::object self_attention_at_once(py::handle input, const py::dict& query_map,
                                  const py::dict& key_map, const py::dict& value_map,
                                  py::handle scale, const std::string& activation,
                                  const std::string& score, std::optional<double> softcap,
                                  bool causal, double dropout_p, bool need_weights) {
  PythonTensors tensor;
  SelfAttentionCall call{tensor(input), {},      {},     tensor(scale), activation,
                         score,         softcap, causal, dropout_p,     need_weights};
  for (const py::dict* map : {&query_map, &key_map, &value_map}) {
    call.weights.push_back(tensor(*map, "weight")), call.biases.push_back(tensor(*map, "bias"));
  }
  if (!tensor.are_plain) return py::none();
  return to_python(unless_refused([&] { return run_self_attention(call, tensor.need_grad); }));
}

}  // namespace

void bind_attention_at_once(py::module_& module) {
  module.def("dot_at_once", torch::wrap_pybind_function(dot_at_once),
             "scaled_dot_product_attention: its result, or None where Python must be asked.");
  module.def("additive_at_once", torch::wrap_pybind_function(additive_at_once),
             "additive_attention: its result, or None where Python must be asked.");
  module.def("multihead_at_once", torch::wrap_pybind_function(multihead_at_once),
             "A MultiheadAttention: (output, weights or None), or None.");
  module.def("self_attention_at_once", torch::wrap_pybind_function(self_attention_at_once),
             "A SelfAttention without lengths: its result, or None.");
}

}  // namespace fastcells
