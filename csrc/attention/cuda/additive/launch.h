// Launchers of additive attention (Bahdanau, Cho and Bengio, 2014): the bridge from the engine
// (attention.cpp) to additive.cu. As attention_launch.h, but
//
//   scores    s_ij = sum_d units_d tanh(q_id + k_jd), plus the mask
//   arguments N = Nk = 1, E = D units, no window (left, right < 0), no softcap, scale is not read
//
// Nothing of size B * Tq * Tk * D exists.
#pragma once
#include "attention/cuda/dot/launch.h"

namespace fastcells::cuda {

struct AdditiveForwardArgs : AttentionForwardArgs {
  // [B, Tq, Tk] scratch. Afterwards it has the weights before dropout, with the sign bit where
  // dropout takes them away (up to the length of a row of keys): all that a way back needs.
  float* signed_weights;
};

// logsumexp, output and delta of the base are not read or written.
struct AdditiveBackwardArgs : AttentionBackwardArgs {
  float* signed_weights;  // [B, Tq, Tk]: the forward pass's, only read; or scratch:
  bool has_weights;       // false: they are computed again
  float* d_scores;        // [B, Tq, Tk] scratch
  float* d_units;         // [additive_parts, D] out: parts of the gradient of units, to be added up
};

constexpr std::int64_t kAdditiveTile = 64;  // queries and keys of a tile
inline std::int64_t additive_parts(std::int64_t B, std::int64_t Tk) {
  return B * ((Tk + kAdditiveTile - 1) / kAdditiveTile);
}

int launch_additive_forward(Storage storage, const AdditiveForwardArgs& args, void* stream);
int launch_additive_backward(Storage storage, const AdditiveBackwardArgs& args, void* stream);

}  // namespace fastcells::cuda
