// Additive scores, s_ij = sum_d scale_d tanh(q_id + k_jd), of a panel of queries (lanes) and some
// keys (rows), and their gradients. Nothing of size Tq * Tk * D is held.
#pragma once
#include "cpu/isa/attention_product.h"

namespace fastcells {
namespace {

template <class S>
struct Additive {
  using V = Vector<S>;
  static constexpr int L = V::kLanes, R = 2, P = R * L;

  int64_t D;
  const S* scale;       // [D]
  const S* query;       // [D][P]
  StridedRows<S> keys;  // [count][D]
  int64_t count;

  // out [count][P]
  void scores(S* out, int64_t stride) const {
    for (int64_t j = 0; j < count; ++j) {
      const S* const key = keys.first + j * keys.stride;
      for (int r = 0; r < R; ++r) {
        V sum(S(0));
        for (int64_t d = 0; d < D; ++d) {
          sum = sum + V(scale[d]) * tanh(V::load(query + d * P + r * L) + V(key[d]));
        }
        sum.store(out + j * stride + r * L);
      }
    }
  }

  // Adds to d_query [D][P], d_key [count][key_stride] and d_scale [D].
  void gradients(const S* d_scores, int64_t stride, S* d_query, S* d_key, int64_t key_stride,
                 S* d_scale) const {
    for (int64_t j = 0; j < count; ++j) {
      const S* const key = keys.first + j * keys.stride;
      for (int64_t d = 0; d < D; ++d) {
        V key_sum(S(0)), scale_sum(S(0));
        for (int r = 0; r < R; ++r) {
          const V t = tanh(V::load(query + d * P + r * L) + V(key[d]));
          const V gradient = V::load(d_scores + j * stride + r * L);
          const V through = gradient * V(scale[d]) * (V(S(1)) - t * t);
          (V::load(d_query + d * P + r * L) + through).store(d_query + d * P + r * L);
          key_sum = key_sum + through;
          scale_sum = scale_sum + gradient * t;
        }
        d_key[j * key_stride + d] += total(key_sum);
        d_scale[d] += total(scale_sum);
      }
    }
  }

 private:
  static S total(V x) {
    S sum = 0;
    for (int l = 0; l < L; ++l) sum += x.v[l];
    return sum;
  }
};

}  // namespace
}  // namespace fastcells
