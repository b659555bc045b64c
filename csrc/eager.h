// Eager calls past torch's dispatcher: whether anything but the result could see the difference,
// and the way back, from C++ and, where only Python knows enough, through it.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <optional>
#include <vector>

namespace fastcells {

// Whether torch would do anything to a call besides computing it, and recording what autograd
// records: a mode, a transform, a tracer, autocast, a profiler.
bool is_watched();

// A tensor in main memory with nothing to it but its values and, at most, a gradient that may be
// asked for.
bool is_plain(const at::Tensor& tensor);

inline std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// On the way back of a C++ node: whether its gradients are plain and will not be differentiated
// again, so that kernels may take them; else a function of Python does, which knows all the rest.
bool may_run_kernels(const std::vector<at::Tensor>& grads);
// fastcells.functional.<module>.<name>(*arguments), a tuple of tensors and None (undefined here, as
// in the arguments). An error of Python passes through autograd as it is.
std::vector<at::Tensor> gradients_by_python(const char* module, const char* name,
                                            const std::vector<c10::IValue>& arguments);

}  // namespace fastcells
