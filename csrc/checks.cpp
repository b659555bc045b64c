#include "checks.h"

#include <ATen/ops/_assert_async.h>
#include <ATen/ops/aminmax.h>

namespace fastcells {

void check_shape(const char* op, const char* name, const char* letters, const at::Tensor& tensor,
                 at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, op, ": ", name, " must have shape ", letters, " = ",
              shape_text(shape), ", got ", shape_text(tensor.sizes()));
}

void check_dtype(const char* op, const char* name, const at::Tensor& tensor, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, op, ": ", name, " must have dtype ",
                   c10::toString(dtype), ", got ", c10::toString(tensor.scalar_type()),
                   ". Convert it with .to(...)");
}

void check_device(const char* op, const char* name, const at::Tensor& tensor, at::Device device,
                  const char* whose) {
  TORCH_CHECK(tensor.device() == device, op, ": ", name, " must be on ", device, ", where the ",
              whose, " is, got ", tensor.device());
}

void check_lengths_in_range(const char* op, const char* name, const at::Tensor& lengths,
                            int64_t most, const char* limit) {
  if (!lengths.defined() || lengths.numel() == 0) return;
  if (!lengths.is_cpu()) {
    const std::string text = std::string(op) + ": " + name + " must lie in 0 .. " + limit;
    at::_assert_async(lengths.ge(0).logical_and(lengths.le(most)).all(), text);
    return;
  }
  const auto [low, high] = at::aminmax(lengths);
  const int64_t least = low.item<int64_t>(), largest = high.item<int64_t>();
  TORCH_CHECK_VALUE(least >= 0 && largest <= most, op, ": ", name, " must lie in 0 .. ", limit,
                    " = ", most, ", got values from ", least, " to ", largest);
}

}  // namespace fastcells
