// A layer, or a step of a cell, that autograd records: the twin in C++ of
// fastcells.functional.recurrent_autograd.Recurrent, for eager calls under no transform. The way
// back enters Python only where it may be differentiated again, or is watched.
#pragma once
#include "recurrent/engine.h"

namespace fastcells {

// A step is a layer of one step: ones in front of a tensor's shape, and gone again.
at::Tensor as_layer(at::Tensor tensor);
at::Tensor of_rank(at::Tensor tensor, int64_t rank);

// What is no tensor of such a call.
struct RecordedCall {
  const CellFacts& cell;
  int64_t directions;
  const WeightNames& names;    // of the weights of one direction
  Keep keep;                   // kStates or kEverything
  at::Tensor* kept = nullptr;  // out, or nullptr: what is saved alone for the way back
};

// input [T, B, I] and states [D, B, P or H] -> output, h_n, and c_n of a cell that has one; or of a
// step, input [B, I] or [I] and states of its rank -> h', and c'. States, lengths and resets may be
// undefined. Throws what does not fit together, before anything is computed.
std::vector<at::Tensor> record(const RecordedCall& call, const at::Tensor& input,
                               const at::Tensor& h_0, const at::Tensor& c_0,
                               const at::Tensor& lengths, const at::Tensor& resets,
                               at::TensorList weights);

}  // namespace fastcells
