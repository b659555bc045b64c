// Argument checks of the ops, in one style. Each failure says what was expected, by name and size,
// and what came:
//
//   fastcells::recurrent_forward: weight_hr must have shape (P, H) = (4, 8), got (4, 6)
//
// Layers refuse most of this earlier, in torch.nn's words (fastcells/checks).
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <sstream>
#include <string>

#include "storage.h"

namespace fastcells {

inline std::string shape_text(at::IntArrayRef sizes) {
  std::ostringstream out;
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "(") << sizes[i];
  out << (sizes.empty() ? "()" : sizes.size() == 1 ? ",)" : ")");
  return out.str();
}

// Throws for a dtype that no kernel takes.
inline Storage storage_of(const char* op, at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Storage::kFloat32;
    case at::kDouble: return Storage::kFloat64;
    case at::kHalf: return Storage::kFloat16;
    case at::kBFloat16: return Storage::kBFloat16;
    default:
      TORCH_CHECK_TYPE(false, op, ": dtype ", c10::toString(dtype),
                       " is not supported (float32, float64, float16, bfloat16)");
  }
}

// `letters` name the dimensions: "(D, B, P)".
void check_shape(const char* op, const char* name, const char* letters, const at::Tensor& tensor,
                 at::IntArrayRef shape);
void check_dtype(const char* op, const char* name, const at::Tensor& tensor, at::ScalarType dtype);
// `device` is that of the argument `whose`.
void check_device(const char* op, const char* name, const at::Tensor& tensor, at::Device device,
                  const char* whose);

// Lengths (int64) must lie in 0 .. most, which `limit` names. On a CPU they are looked at; on a
// GPU, where that would wait for the device, they are asserted there.
void check_lengths_in_range(const char* op, const char* name, const at::Tensor& lengths,
                            int64_t most, const char* limit);

}  // namespace fastcells
