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

// torch.nn.MultiheadAttention, of what its caller and its module bring. Undefined what is absent.
struct Multihead {
  at::Tensor query, key, value;  // [T, B, E], [B, T, E] or [T, E]
  at::Tensor padding, mask;      // as torch.nn has them: true hides
  at::Tensor in_weight;          // [3E, E]; or one for each:
  at::Tensor q_weight, k_weight, v_weight;
  at::Tensor in_bias, out_weight, out_bias;
  at::Tensor bias_k, bias_v;  // [1, 1, E]: a key and a value more
  int64_t embed_dim, heads;
  bool batch_first, add_zero;  // add_zero: a key and a value of 0 more
  bool is_causal;              // the caller's word on the mask, which is looked at
  double dropout_p;
  bool need_weights, average_weights;
};
std::vector<at::Tensor> run_multihead(Multihead call, bool need_grad);

// fastcells.SelfAttention: one product for the three maps.
struct SelfAttentionCall {
  at::Tensor input;                         // [B, T, I] or [T, I]
  at::Tensor lengths;                       // [B] int64 or undefined: T
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
