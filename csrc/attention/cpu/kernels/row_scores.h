// The scores of one query: for calls of a few queries, where lanes of queries would stay empty.
// Lanes run along E for a score and along the keys for softmax, and every key is read once.
#pragma once
#include "attention/cpu/kernels/additive.h"
#include "attention/cpu/kernels/tile.h"

namespace fastcells {
namespace {

// x . y for four rows y.
template <class T, class S>
FC_INLINE void four_dots(const S* x, const T* const (&row)[4], int64_t width, S* to) {
  using V = Vector<S>;
  V sum[4] = {V(S(0)), V(S(0)), V(S(0)), V(S(0))};
  int64_t e = 0;
  for (; e + V::kLanes <= width; e += V::kLanes) {
    const V of_x = V::load(x + e);
    FC_UNROLL
    for (int m = 0; m < 4; ++m) multiply_add(sum[m], of_x, load(row[m] + e));
  }
  for (int m = 0; e < width && m < 4; ++m) {
    sum[m] = sum[m] + load_first(x + e, int(width - e)) * load_first(row[m] + e, int(width - e));
  }
  sums_of(sum, to);
}

template <class T, class S, bool kAdditive>
class RowScores {
  using V = Vector<S>;
  static constexpr int L = V::kLanes;
  static constexpr S kNothing = -std::numeric_limits<S>::infinity();

 public:
  // Query `q`, a single one, whose values are query [E]: scaled, for a dot product.
  RowScores(const AttentionArgs& a, const Queries& q, const S* query)
      : a_(a), q_(q), query_(query), key_head_(q.n / (a.N / a.Nk)) {}

  const T* key(int64_t j) const { return matrix_rows<T>(a_.key, q_.b, key_head_, j); }
  const T* value(int64_t j) const { return matrix_rows<T>(a_.value, q_.b, key_head_, j); }

  // scores [count + 3] of the keys, masked; slope [count], if given, takes the softcap's.
  void compute(Keys keys, S* scores, S* slope) const {
    if constexpr (kAdditive) {
      add_units(keys, scores);
    } else {
      for (int64_t j = keys.first; j < keys.last; j += 4) {
        const T* row[4];
        for (int m = 0; m < 4; ++m) row[m] = key(at_most(j + m, keys.last - 1));
        four_dots(query_, row, a_.E, scores + j - keys.first);
      }
    }
    if (a_.softcap > 0) cap(keys.count(), scores, slope);
    if (a_.mask.kind == AttentionMask::Kind::kBool) add_mask<bool>(keys, scores);
    if (a_.mask.kind == AttentionMask::Kind::kAdded) add_mask<T>(keys, scores);
    if (a_.mask.kind == AttentionMask::Kind::kAddedWide) add_mask<S>(keys, scores);
  }

  // factor [count]: keep / (1 - p).
  void fill_dropout(Keys keys, S* factor) const {
    std::uint32_t word[4];
    for (int64_t j = keys.first; j < keys.last; ++j) {
      if (j == keys.first || j % 4 == 0) {
        Philox::words(std::uint64_t(a_.dropout.seed[0]), std::uint32_t(j / 4), std::uint32_t(q_.i),
                      std::uint32_t(q_.b * a_.N + q_.n), word);
      }
      factor[j - keys.first] =
          word[j % 4] >= a_.dropout.threshold ? S(a_.dropout.keep_scale) : S(0);
    }
  }

  // One vector of the units d of a key.
  FC_INLINE V half(const T* key, int64_t d) const {
    const int64_t n = a_.E - d;
    return half_minus_tanh(load_lanes<V>(query_ + d, n) + load_lanes<V>(key + d, n));
  }
  FC_INLINE V unit(int64_t d) const {
    return load_lanes<V>(static_cast<const S*>(a_.units) + d, a_.E - d);
  }

 private:
  void add_units(Keys keys, S* scores) const {
    S total = 0;
    for (int64_t d = 0; d < a_.E; ++d) total += static_cast<const S*>(a_.units)[d];
    for (int64_t j = keys.first; j < keys.last; ++j) {
      V sum[2] = {V(S(0)), V(S(0))};
      const T* const row = key(j);
      for (int64_t d = 0; d < a_.E; d += 2 * L) {
        sum[0] = sum[0] + unit(d) * half(row, d);
        if (d + L < a_.E) sum[1] = sum[1] + unit(d + L) * half(row, d + L);
      }
      scores[j - keys.first] = total - 2 * sum_of(sum[0] + sum[1]);
    }
  }

  void cap(int64_t count, S* scores, S* slope) const {
    const V limit = V(S(a_.softcap)), inverse = V(S(1 / a_.softcap));
    for (int64_t j = 0; j < count; j += L) {
      const V t = tanh(load_lanes<V>(scores + j, count - j) * inverse);
      store_lanes(scores + j, limit * t, count - j);
      if (slope) store_lanes(slope + j, V(S(1)) - t * t, count - j);
    }
  }

  template <class M>
  void add_mask(Keys keys, S* scores) const {
    const auto& m = a_.mask;
    const M* const first = static_cast<const M*>(m.data) + q_.b * m.batch + q_.n * m.head +
                           q_.i * m.query + keys.first * m.key;
    const V lowest = V(std::numeric_limits<S>::lowest());
    for (int64_t j = 0; j < keys.count(); j += L) {
      const int n = int(at_most(L, keys.count() - j));
      V bias = V(load_edge(first, 1, S()).v[0]);
      if (m.key != 0) bias = n == L ? load(first + j, S()) : load_edge(first + j, n, S());
      const V score = load_lanes<V>(scores + j, n);
      store_lanes(scores + j, select(bias < lowest, bias, score + bias), n);
    }
  }

  const AttentionArgs& a_;
  const Queries q_;
  const S* const query_;
  const int64_t key_head_;
};

}  // namespace
}  // namespace fastcells
