#include "scan/at_once.h"

#include <ATen/ExpandUtils.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "python_tensors.h"
#include "scan/way_back.h"

namespace fastcells {
namespace {

at::Tensor scan(at::Tensor a, at::Tensor b, const OptionalTensor& h_0,
                const OptionalTensor& lengths, const OptionalTensor& resets, bool batch_first,
                bool reverse, bool need_grad) {
  if (a.sizes() != b.sizes() || b.dim() != 3) {
    const auto shape = at::infer_size_dimvector(a.sizes(), b.sizes());
    while (a.dim() < 3) a = a.unsqueeze(0);
    b = b.expand(shape);
  }
  if (need_grad) return recorded_scan(a, b, h_0, lengths, resets, batch_first, reverse);
  return linear_scan(a, b, h_0, lengths, resets, batch_first, reverse, /*adjoint=*/false);
}

// h, or None where the way through Python must be asked.
py::object scan_at_once(py::handle a, py::handle b, py::handle h_0, py::handle lengths,
                        py::handle resets, py::handle batch_first, py::handle reverse) {
  PythonTensors tensor;
  const at::Tensor x = tensor(a), y = tensor(b), state = tensor(h_0), ends = tensor(lengths),
                   cuts = tensor(resets);
  if (!tensor.are_plain || !x.defined() || !y.defined() || !are_flags(batch_first, reverse)) {
    return py::none();
  }
  const bool is_batch_first = batch_first.cast<bool>(), is_reverse = reverse.cast<bool>();
  return to_python(unless_refused([&] {
    return scan(x, y, optional(state), optional(ends), optional(cuts), is_batch_first, is_reverse,
                tensor.need_grad);
  }));
}

}  // namespace

void bind_scan_at_once(py::module_& module) {
  module.def("scan_at_once", torch::wrap_pybind_function(scan_at_once), py::arg("a"), py::arg("b"),
             py::arg("h_0"), py::arg("lengths"), py::arg("resets"), py::arg("batch_first"),
             py::arg("reverse"), "h of a plain scan, or None: scan/at_once.h.");
}

}  // namespace fastcells
