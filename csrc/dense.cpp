#include "dense.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

namespace fastcells {
namespace {

constexpr int64_t kMostElements = 4096;  // of what is copied here, one by one

// The elements of x from dimension `d` on, one after another; where the next one goes.
template <int kBytes>
char* copy_from(const at::Tensor& x, int64_t d, const char* from, char* to) {
  const int64_t size = x.size(d), stride = x.stride(d) * kBytes;
  const bool is_last = d + 1 == x.dim();
  for (int64_t i = 0; i < size; ++i, from += stride) {
    if (is_last) {
      std::memcpy(to, from, kBytes), to += kBytes;
    } else {
      to = copy_from<kBytes>(x, d + 1, from, to);
    }
  }
  return to;
}

template <int kBytes>
at::Tensor copy_of(const at::Tensor& x) {
  const at::Tensor result = at::detail::empty_cpu(x.sizes(), x.scalar_type());
  copy_from<kBytes>(x, 0, static_cast<const char*>(x.const_data_ptr()),
                    static_cast<char*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace

at::Tensor dense(const at::Tensor& x) {
  if (x.is_contiguous()) return x;
  const bool is_small = x.is_cpu() && x.layout() == at::kStrided && x.numel() <= kMostElements &&
                        !x.is_neg() && !x.is_conj();
  if (is_small && x.element_size() == 2) return copy_of<2>(x);
  if (is_small && x.element_size() == 4) return copy_of<4>(x);
  if (is_small && x.element_size() == 8) return copy_of<8>(x);
  return x.contiguous();
}

at::Tensor or_absent(const at::Tensor& x, const at::Tensor& like) {
  return x.defined() ? x : at::empty({0}, like.options());
}

}  // namespace fastcells
