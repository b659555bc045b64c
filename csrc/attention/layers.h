// Whole calls and layers of attention on a CPU, of plain tensors: what Python does around the op,
// in torch's operations called from C++. An empty result: the way through Python must be asked.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "attention/way_back.h"

namespace fastcells {

// scaled_dot_product_attention as Python has it.
struct DotCall {
  std::optional<double> scale, softcap;
  double dropout_p;
  bool is_causal, return_weights;
};
std::vector<at::Tensor> attend_dot(AttentionTensors tensors, const DotCall& call, bool need_grad);
std::vector<at::Tensor> attend_additive(AttentionTensors tensors, double dropout_p,
                                        bool return_weights, bool need_grad);

// torch.nn.MultiheadAttention with one joined weight, batched.
struct Multihead {
  at::Tensor query, key, value;
  at::Tensor padding, mask;  // as torch.nn has them: true hides; or undefined
  at::Tensor in_weight, in_bias, out_weight, out_bias;
  int64_t embed_dim, heads;
  bool batch_first;
  double dropout_p;
  bool need_weights, average_weights;
};
std::vector<at::Tensor> run_multihead(const Multihead& call, bool need_grad);

// fastcells.SelfAttention: one product for the three maps.
struct SelfAttentionCall {
  at::Tensor input;                         // [B, T, I] or [T, I]
  std::vector<at::Tensor> weights, biases;  // of query, key and value
  at::Tensor scale;                         // of an additive score, or undefined
  std::string activation, score;
  std::optional<double> softcap;
  bool causal;
  double dropout_p;
  bool need_weights;
};
std::vector<at::Tensor> run_self_attention(const SelfAttentionCall& call, bool need_grad);

}  // namespace fastcells
