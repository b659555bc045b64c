// Attention of a few queries, forward and backward: a pass that reads memory once, query by query.
#pragma once
#include "attention/cpu/kernels/row_scores.h"

namespace fastcells {
namespace {

// Queries a head up to which a pass over rows is faster than tiles whose lanes are queries.
constexpr int64_t kMostRows = 4;

// to [width] += sum_j factor_j row_j; a factor of 0 takes nothing, even of NaN.
template <class T, class S, class Row>
void add_rows(int64_t count, const S* factor, const Row& row, int64_t width, S* to) {
  using V = Vector<S>;
  constexpr int L = V::kLanes, kWide = 8;
  int64_t e = 0;
  for (; e + kWide * L <= width; e += kWide * L) {
    V sum[kWide];
    FC_UNROLL
    for (int c = 0; c < kWide; ++c) sum[c] = V::load(to + e + c * L);
    for (int64_t j = 0; j < count; ++j) {
      if (factor[j] == S(0)) continue;
      const T* const from = row(j) + e;
      const V f(factor[j]);
      FC_UNROLL
      for (int c = 0; c < kWide; ++c) multiply_add(sum[c], f, load(from + c * L));
    }
    FC_UNROLL
    for (int c = 0; c < kWide; ++c) sum[c].store(to + e + c * L);
  }
  for (; e < width; e += L) {
    V sum = load_lanes<V>(to + e, width - e);
    for (int64_t j = 0; j < count; ++j) {
      if (factor[j] == S(0)) continue;
      sum = sum + V(factor[j]) * load_lanes<V>(row(j) + e, width - e);
    }
    store_lanes(to + e, sum, width - e);
  }
}

template <class T, class S>
FC_INLINE void load_row(const T* from, int64_t width, S factor, S* to) {
  using V = Vector<S>;
  for (int64_t e = 0; e < width; e += V::kLanes) {
    store_lanes(to + e, load_lanes<V>(from + e, width - e) * V(factor), width - e);
  }
}
template <class S>
FC_INLINE void clear_row(S* to, int64_t count) {
  for (int64_t e = 0; e < count; ++e) to[e] = S(0);
}

template <class T, class S, bool kAdditive>
class RowsForward {
  using V = Vector<S>;
  using Scores = RowScores<T, S, kAdditive>;
  static constexpr int L = V::kLanes;

  struct Scratch {
    S *query, *output;   // [E], [Ev]
    S *scores, *factor;  // [Tk]
    std::size_t bytes;
    Scratch(const AttentionArgs& a, char* base) {
      Arena arena{base};
      query = arena.take<S>(a.E), output = arena.take<S>(a.Ev);
      scores = arena.take<S>(a.Tk + 3), factor = arena.take<S>(a.Tk);
      bytes = arena.used;
    }
  };

 public:
  static int64_t tasks(const AttentionArgs& a) { return a.B * a.N * a.Tq; }
  static std::size_t scratch_bytes(const AttentionArgs& a) { return Scratch(a, nullptr).bytes; }
  RowsForward(const AttentionForwardArgs& a, int64_t task, void* scratch)
      : a_(a), s_(a, static_cast<char*>(scratch)), row_(task) {
    q_ = {task / a.Tq / a.N, task / a.Tq % a.N, task % a.Tq, 1};
  }

  void run() {
    const Keys keys = seen_by_some(a_, q_);
    const Scores of(a_, q_, s_.query);
    load_row(matrix_rows<T>(a_.query, q_.b, q_.n, q_.i), a_.E, S(kAdditive ? 1 : a_.scale),
             s_.query);
    of.compute(keys, s_.scores, nullptr);
    OnlineSoftmax<S, S> softmax;
    exponentials(keys.count(), softmax);
    if (a_.dropout.is_on) {
      of.fill_dropout(keys, s_.factor);
      for (int64_t j = 0; j < keys.count(); ++j) s_.scores[j] *= s_.factor[j];
    }
    clear_row(s_.output, a_.Ev);
    add_rows<T>(
        keys.count(), s_.scores, [&](int64_t j) { return of.value(keys.first + j); }, a_.Ev,
        s_.output);
    store_row(s_.output, a_.Ev, softmax.normaliser(), static_cast<T*>(a_.output) + row_ * a_.Ev);
    static_cast<S*>(a_.logsumexp)[2 * row_] = softmax.max;
    static_cast<S*>(a_.logsumexp)[2 * row_ + 1] = softmax.log_sum();
    if (a_.weights) store_weights(keys, softmax.normaliser());
  }

 private:
  void exponentials(int64_t count, OnlineSoftmax<S, S>& softmax) {
    V largest(OnlineSoftmax<S, S>::kNothing), sum(S(0));
    int64_t whole = 0;
    for (; whole + L <= count; whole += L) {
      largest = larger(largest, V::load(s_.scores + whole));
    }
    S most = OnlineSoftmax<S, S>::kNothing;
    for (int l = 0; l < L; ++l) most = largest.v[l] > most ? largest.v[l] : most;
    for (int64_t j = whole; j < count; ++j) most = s_.scores[j] > most ? s_.scores[j] : most;
    softmax.raise(most);
    const V reference(softmax.reference());
    for (int64_t j = 0; j < count; j += L) {
      const V w = exp_below(load_lanes<V>(s_.scores + j, count - j) - reference);
      store_lanes(s_.scores + j, w, count - j);
      sum = sum + load_lanes<V>(s_.scores + j, count - j);
    }
    softmax.sum = sum_of(sum);
  }
  static void store_row(const S* from, int64_t width, S factor, T* to) {
    for (int64_t e = 0; e < width; e += L) {
      store_lanes(to + e, load_lanes<V>(from + e, width - e) * V(factor), width - e);
    }
  }
  void store_weights(Keys keys, S normaliser) {
    T* const to = static_cast<T*>(a_.weights) + row_ * a_.Tk;
    for (int64_t j = 0; j < a_.Tk; ++j) to[j] = T{};
    if (!keys.is_empty()) store_row(s_.scores, keys.count(), normaliser, to + keys.first);
  }

  const AttentionForwardArgs& a_;
  Scratch s_;
  const int64_t row_;
  Queries q_{};
};

}  // namespace
}  // namespace fastcells
