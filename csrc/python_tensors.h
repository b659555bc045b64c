// Tensors out of Python's objects and back, for the entry points that Python calls past torch's
// dispatcher.
#pragma once
#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>

#include "eager.h"

namespace fastcells {

namespace py = pybind11;

// A tensor of each object, undefined for None. `are_plain` ends when one is neither, as a subclass
// of Tensor is, and begins only where nothing watches; `need_grad` begins when a derivative may be
// asked of one.
class PythonTensors {
 public:
  const at::Tensor& operator()(PyObject* object);
  const at::Tensor& operator()(py::handle object) { return (*this)(object.ptr()); }
  const at::Tensor& operator()(const py::dict& parameters, const char* name) {
    return (*this)(PyDict_GetItemString(parameters.ptr(), name));
  }
  bool are_plain = !is_watched();
  bool need_grad = false;
};

// What `call` returns, without Python's lock, or an empty value where tensors did not fit together:
// the way through Python finds that too, and says it in the user's words.
template <class F>
auto unless_refused(const F& call) -> decltype(call()) {
  const py::gil_scoped_release no_gil;
  try {
    return call();
  } catch (const c10::Error&) {
    return {};
  }
}

// What Python's own checks, or pybind's, would say something of is None here, and left to Python.
inline bool is_flag(py::handle value) { return PyBool_Check(value.ptr()); }
inline bool is_number(py::handle value) {
  return PyFloat_CheckExact(value.ptr()) || PyLong_CheckExact(value.ptr());
}
inline bool is_number_or_none(py::handle value) { return value.is_none() || is_number(value); }
template <class... Handles>
bool are_flags(const Handles&... values) {
  return (is_flag(values) && ...);
}

// Python's object of a tensor, None of an undefined one.
py::object to_python(at::Tensor tensor);

}  // namespace fastcells
