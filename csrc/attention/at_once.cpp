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

// The results as Python has them: output, or output and weights.
py::object to_python(const std::vector<at::Tensor>& results) {
  if (results.empty()) return py::none();
  if (results.size() == 1) return fastcells::to_python(results[0]);
  return py::make_tuple(fastcells::to_python(results[0]), fastcells::to_python(results[1]));
}

// scaled_dot_product_attention without grouped heads, window or another alignment; None where the
// way through Python must be asked.
py::object dot_at_once(py::handle query, py::handle key, py::handle value, py::handle mask,
                       py::handle key_lengths, py::handle return_weights, py::handle is_causal,
                       py::handle dropout_p, py::handle scale, py::handle softcap) {
  PythonTensors tensor;
  AttentionTensors t{tensor(query),       tensor(key), tensor(value), {}, tensor(mask),
                     tensor(key_lengths), {}};
  if (!tensor.are_plain || !are_flags(return_weights, is_causal) || !is_number(dropout_p) ||
      !is_number_or_none(scale) || !is_number_or_none(softcap)) {
    return py::none();
  }
  using MaybeDouble = std::optional<double>;
  const DotCall call{scale.cast<MaybeDouble>(), softcap.cast<MaybeDouble>(),
                     dropout_p.cast<double>(), is_causal.cast<bool>(), return_weights.cast<bool>()};
  if (call.is_causal && t.mask.defined()) return py::none();
  return to_python(unless_refused([&] { return attend_dot(t, call, tensor.need_grad); }));
}

py::object additive_at_once(py::handle query, py::handle key, py::handle value, py::handle scale,
                            py::handle mask, py::handle key_lengths, py::handle return_weights,
                            py::handle dropout_p) {
  PythonTensors tensor;
  AttentionTensors t{tensor(query),       tensor(key), tensor(value), tensor(scale), tensor(mask),
                     tensor(key_lengths), {}};
  if (!tensor.are_plain || !is_flag(return_weights) || !is_number(dropout_p)) return py::none();
  const double p = dropout_p.cast<double>();
  const bool with_weights = return_weights.cast<bool>();
  return to_python(
      unless_refused([&] { return attend_additive(t, p, with_weights, tensor.need_grad); }));
}

// A whole MultiheadAttention without lengths of keys, on its own dictionaries of parameters:
// (output, weights or None).
py::object multihead_at_once(py::handle query, py::handle key, py::handle value, py::handle padding,
                             py::handle mask, const py::dict& parameters,
                             const py::dict& out_parameters, py::handle bias_k, py::handle bias_v,
                             py::handle embed_dim, py::handle heads, py::handle batch_first,
                             py::handle add_zero, py::handle is_causal, py::handle dropout_p,
                             py::handle need_weights, py::handle average_weights) {
  PythonTensors tensor;
  if (!PyLong_CheckExact(embed_dim.ptr()) || !PyLong_CheckExact(heads.ptr()) ||
      !are_flags(batch_first, add_zero, is_causal, need_weights, average_weights) ||
      !is_number(dropout_p)) {
    return py::none();
  }
  Multihead call;
  call.query = tensor(query), call.key = tensor(key), call.value = tensor(value);
  call.padding = tensor(padding), call.mask = tensor(mask);
  call.in_weight = tensor(parameters, "in_proj_weight");
  call.q_weight = tensor(parameters, "q_proj_weight");
  call.k_weight = tensor(parameters, "k_proj_weight");
  call.v_weight = tensor(parameters, "v_proj_weight");
  call.in_bias = tensor(parameters, "in_proj_bias");
  call.bias_k = tensor(bias_k), call.bias_v = tensor(bias_v);
  call.out_weight = tensor(out_parameters, "weight");
  call.out_bias = tensor(out_parameters, "bias");
  call.embed_dim = embed_dim.cast<int64_t>(), call.heads = heads.cast<int64_t>();
  call.batch_first = batch_first.cast<bool>(), call.add_zero = add_zero.cast<bool>();
  call.is_causal = is_causal.cast<bool>();
  call.dropout_p = dropout_p.cast<double>();
  call.need_weights = need_weights.cast<bool>();
  call.average_weights = average_weights.cast<bool>();
  if (!tensor.are_plain) return py::none();
  const auto results = unless_refused([&] { return run_multihead(call, tensor.need_grad); });
  if (results.empty()) return py::none();
  return py::make_tuple(fastcells::to_python(results[0]),
                        results.size() > 1 ? fastcells::to_python(results[1]) : py::none());
}

// A whole SelfAttention, on the dictionaries of parameters of its three maps.
py::object self_attention_at_once(py::handle input, py::handle lengths, const py::dict& query_map,
                                  const py::dict& key_map, const py::dict& value_map,
                                  py::handle scale, py::handle activation, py::handle score,
                                  py::handle softcap, py::handle causal, py::handle dropout_p,
                                  py::handle need_weights) {
  PythonTensors tensor;
  if (!PyUnicode_CheckExact(activation.ptr()) || !PyUnicode_CheckExact(score.ptr()) ||
      !are_flags(causal, need_weights) || !is_number(dropout_p) || !is_number_or_none(softcap)) {
    return py::none();
  }
  SelfAttentionCall call{tensor(input),
                         tensor(lengths),
                         {},
                         {},
                         tensor(scale),
                         activation.cast<std::string>(),
                         score.cast<std::string>(),
                         softcap.cast<std::optional<double>>(),
                         causal.cast<bool>(),
                         dropout_p.cast<double>(),
                         need_weights.cast<bool>()};
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
             "A SelfAttention: its result, or None where Python must be asked.");
}

}  // namespace fastcells
