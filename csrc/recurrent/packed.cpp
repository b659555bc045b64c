#include "recurrent/packed.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace fastcells {
namespace {

bool is_list(const at::Tensor& x) {
  return x.defined() && x.dim() == 1 && x.scalar_type() == at::kLong && x.is_contiguous();
}

// Positive, never rising, and adding up to `rows`.
bool are_sizes(const at::Tensor& sizes, int64_t rows) {
  if (!is_list(sizes) || sizes.numel() == 0) return false;
  const int64_t* size = sizes.const_data_ptr<int64_t>();
  int64_t before = size[0], sum = 0;
  for (int64_t t = 0; t < sizes.numel(); before = size[t++]) {
    if (size[t] <= 0 || size[t] > before || size[t] > rows - sum) return false;
    sum += size[t];
  }
  return sum == rows;
}

// Each undefined, or all of 0 .. B - 1 in some order; one the way back of the other.
bool are_orders(const at::Tensor& order, const at::Tensor& back, int64_t B) {
  for (const at::Tensor* x : {&order, &back}) {
    if (!x->defined()) continue;
    if (!is_list(*x) || x->numel() != B) return false;
    std::vector<bool> found(B);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t row = x->const_data_ptr<int64_t>()[b];
      if (row < 0 || row >= B || found[row]) return false;
      found[row] = true;
    }
  }
  if (!order.defined() || !back.defined()) return true;
  for (int64_t b = 0; b < B; ++b) {
    if (back.const_data_ptr<int64_t>()[order.const_data_ptr<int64_t>()[b]] != b) return false;
  }
  return true;
}

}  // namespace

std::optional<PaddedRows> pad(const PackedRows& packed) {
  const at::Tensor& data = packed.data;
  if (!data.defined() || data.dim() != 2 || !are_sizes(packed.batch_sizes, data.size(0))) {
    return std::nullopt;
  }
  const int64_t* size = packed.batch_sizes.const_data_ptr<int64_t>();
  const int64_t T = packed.batch_sizes.numel(), B = size[0], rows = data.size(0);
  if (!are_orders(packed.sorted_indices, packed.unsorted_indices, B)) return std::nullopt;
  if (rows == T * B) return PaddedRows{data.unflatten(0, {T, B}), {}, {}};
  const at::Tensor lengths = at::detail::empty_cpu({B}, at::kLong);
  const at::Tensor places = at::detail::empty_cpu({rows}, at::kLong);
  int64_t* const length = lengths.mutable_data_ptr<int64_t>();
  int64_t* place = places.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < size[t]; ++b) *place++ = t * B + b, length[b] = t + 1;
  }
  const at::Tensor padded =
      at::zeros({T * B, data.size(1)}, data.options()).index_copy(0, places, data);
  return PaddedRows{padded.unflatten(0, {T, B}), lengths, places};
}

at::Tensor pack(const at::Tensor& output, const PaddedRows& padded) {
  const at::Tensor rows = output.flatten(0, 1);
  return padded.places.defined() ? rows.index_select(0, padded.places) : rows;
}

}  // namespace fastcells
