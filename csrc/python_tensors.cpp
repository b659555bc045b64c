#include "python_tensors.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <string>

namespace fastcells {

const at::Tensor& PythonTensors::operator()(PyObject* object) {
  static const at::Tensor absent;
  if (!object || !THPVariable_CheckExact(object)) {
    are_plain = are_plain && object == Py_None;
    return absent;
  }
  const at::Tensor& tensor = THPVariable_Unpack(object);
  are_plain = are_plain && is_plain(tensor);
  need_grad = need_grad || (tensor.requires_grad() && at::GradMode::is_enabled() &&
                            !c10::InferenceMode::is_enabled());
  return tensor;
}

py::object to_python(at::Tensor tensor) {
  if (!tensor.defined()) return py::none();
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(tensor)));
}

std::vector<at::Tensor> gradients_by_python(const char* module, const char* name,
                                            const std::vector<c10::IValue>& arguments) {
  const py::gil_scoped_acquire gil;
  try {
    const std::string path = std::string("fastcells.functional.") + module;
    py::tuple given(arguments.size());
    for (size_t i = 0; i < arguments.size(); ++i) given[i] = torch::jit::toPyObject(arguments[i]);
    const py::tuple found = py::module_::import(path.c_str()).attr(name)(*given);
    std::vector<at::Tensor> gradients;
    for (const py::handle gradient : found) {
      gradients.push_back(gradient.is_none() ? at::Tensor() : THPVariable_Unpack(gradient.ptr()));
    }
    return gradients;
  } catch (py::error_already_set& error) {
    error.restore();
    python_error passing;
    passing.persist();
    throw passing;
  }
}

}  // namespace fastcells
