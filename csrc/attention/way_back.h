// Attention on a CPU, recorded by autograd where a derivative may be asked for: the twin in C++ of
// fastcells.functional.attention_autograd.Attention, for eager calls under no transform. The way
// back enters Python only where it may be differentiated again, or is watched.
#pragma once
#include <vector>

#include "attention/problem.h"

namespace fastcells {

struct AttentionTensors {
  at::Tensor query, key, value;
  at::Tensor units;        // the scale of an additive score; else undefined
  at::Tensor mask;         // of the rank of the query at most, or undefined
  at::Tensor key_lengths;  // [B], or undefined
  at::Tensor seed;         // [1], or undefined without dropout
};

// What is no tensor. An additive call has neither scale, softcap nor limits.
struct AttentionOptions {
  double scale = 1, softcap = 0, dropout_p = 0;
  AttentionWindow window{-1, -1, 0};
  bool return_weights = false;
};

// Throws what does not fit together; of a seed nothing is asked.
void check(const AttentionTensors& tensors, AttentionOptions options);

// output and, where asked for, weights. Dot products: query, key and value [B, N, T, X], [B, T, X]
// or [T, X], with the same leading sizes; additive scores: [B, T, X]. Throws what does not fit
// together, before anything is computed.
std::vector<at::Tensor> attend(const AttentionTensors& tensors, const AttentionOptions& options,
                               bool need_grad);

}  // namespace fastcells
