// Tensors as kernels read them and as ops return them.
#pragma once
#include <ATen/core/Tensor.h>

namespace fastcells {

// x.contiguous(), which for a small tensor costs more than a small kernel: the gradient of a sum is
// one number, expanded.
at::Tensor dense(const at::Tensor& x);

// x, or where it is undefined an empty tensor like `like`, by which an op says that there is none.
at::Tensor or_absent(const at::Tensor& x, const at::Tensor& like);

}  // namespace fastcells
