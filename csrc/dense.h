// Tensors without holes.
#pragma once
#include <ATen/core/Tensor.h>

namespace fastcells {

// x.contiguous(), which for a small tensor costs more than a small kernel: the gradient of a sum is
// one number, expanded.
at::Tensor dense(const at::Tensor& x);

}  // namespace fastcells
