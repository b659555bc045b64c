// torch.nn.utils.rnn.PackedSequence, whose rows are sorted by falling length and stored step by
// step, to padded rows with lengths and back: what fastcells/layers/packed.py does for calls that
// Python must see, on a CPU.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace fastcells {

struct PackedRows {
  at::Tensor data;                              // [sum(batch_sizes), I]
  at::Tensor batch_sizes;                       // [T] int64, positive and never rising
  at::Tensor sorted_indices, unsorted_indices;  // [B] int64 that undo one another, or undefined
};

struct PaddedRows {
  at::Tensor data;     // [T, B, I], 0 past a row's end
  at::Tensor lengths;  // [B] int64, or undefined: all rows are full
  at::Tensor places;   // of the packed rows in [T*B], or undefined: all of them
};

// No value where a part is not as it must be.
std::optional<PaddedRows> pad(const PackedRows& packed);
// [T, B, X] to the packed rows, [sum(batch_sizes), X].
at::Tensor pack(const at::Tensor& output, const PaddedRows& padded);

}  // namespace fastcells
