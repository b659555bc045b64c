#include "checks.h"

#include <ATen/ops/_assert_async.h>
#include <ATen/ops/aminmax.h>

namespace fastcells {

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
