// The way back of attention of a few queries (attention/cpu/kernels/rows.h). A task owns a range of
// keys of one key head, as in backward.h.
#pragma once
#include "attention/cpu/kernels/rows.h"

namespace fastcells {
namespace {

template <class T, class S, bool kAdditive>
class RowsBackward {
  using V = Vector<S>;
  using Scores = RowScores<T, S, kAdditive>;
  static constexpr int L = V::kLanes;
  static constexpr S kNothing = -std::numeric_limits<S>::infinity();
  static constexpr bool kInPlace = sizeof(T) == sizeof(S);  // sums go where they stay

  static int64_t chunk_keys(const cpu::AttentionBackwardArgs& a) {
    return divide_up(a.Tk, a.key_chunks);
  }

  struct Scratch {
    S *query, *d_query, *d_units;  // [E]
    S* d_output;                   // [Ev]
    S *weights, *d_scores;         // [Tk + 3]
    S *factor, *slope;             // [Tk]
    S *d_key, *d_value;            // [chunk][E], [chunk][Ev], where storage is not arithmetic
    std::size_t bytes;
    Scratch(const cpu::AttentionBackwardArgs& a, char* base) {
      Arena arena{base};
      query = arena.take<S>(a.E), d_query = arena.take<S>(a.E), d_units = arena.take<S>(a.E);
      d_output = arena.take<S>(a.Ev);
      weights = arena.take<S>(a.Tk + 3), d_scores = arena.take<S>(a.Tk + 3);
      factor = arena.take<S>(a.Tk), slope = arena.take<S>(a.Tk);
      if constexpr (!kInPlace) {
        d_key = arena.take<S>(chunk_keys(a) * a.E), d_value = arena.take<S>(chunk_keys(a) * a.Ev);
      }
      bytes = arena.used;
    }
  };

 public:
  static int64_t tasks(const cpu::AttentionBackwardArgs& a) { return a.B * a.Nk * a.key_chunks; }
  static std::size_t scratch_bytes(const cpu::AttentionBackwardArgs& a) {
    return Scratch(a, nullptr).bytes;
  }
  RowsBackward(const cpu::AttentionBackwardArgs& a, int64_t task, void* scratch)
      : a_(a), s_(a, static_cast<char*>(scratch)), task_(task), chunk_(task % a.key_chunks) {
    b_ = task / a.key_chunks / a.Nk, key_head_ = task / a.key_chunks % a.Nk;
    own_ = {at_most(chunk_ * chunk_keys(a), a.Tk), at_most((chunk_ + 1) * chunk_keys(a), a.Tk)};
  }

  void run() {
    const int64_t row = (b_ * a_.Nk + key_head_) * a_.Tk + own_.first;
    T* const d_key = static_cast<T*>(a_.d_key) + row * a_.E;
    T* const d_value = static_cast<T*>(a_.d_value) + row * a_.Ev;
    if constexpr (kInPlace) s_.d_key = d_key, s_.d_value = d_value;
    if constexpr (kAdditive) clear_row(s_.d_units, a_.E);
    const int64_t heads = a_.N / a_.Nk;
    for (int64_t n = key_head_ * heads; n < (key_head_ + 1) * heads; ++n) {
      for (int64_t i = 0; i < a_.Tq; ++i) add_query({b_, n, i, 1});
    }
    if (!is_started_) start({0, 0});
    if constexpr (!kInPlace) {
      store_row(s_.d_key, own_.count() * a_.E, d_key);
      store_row(s_.d_value, own_.count() * a_.Ev, d_value);
    }
    if constexpr (kAdditive) {
      S* const to = static_cast<S*>(a_.d_units) + task_ * a_.E;
      for (int64_t d = 0; d < a_.E; ++d) to[d] = total_ - 2 * s_.d_units[d];
    }
  }

 private:
  // The first query to see some keys sets their gradients, and those of the others to zero.
  void start(Keys keys) {
    const int64_t before = keys.is_empty() ? 0 : keys.first - own_.first;
    const int64_t after = keys.is_empty() ? 0 : keys.last - own_.first;
    clear_row(s_.d_key, before * a_.E), clear_row(s_.d_value, before * a_.Ev);
    clear_row(s_.d_key + after * a_.E, (own_.count() - after) * a_.E);
    clear_row(s_.d_value + after * a_.Ev, (own_.count() - after) * a_.Ev);
    is_started_ = true;
  }

  static void store_row(const S* from, int64_t count, T* to) {
    for (int64_t e = 0; e < count; e += L) {
      store_lanes(to + e, load_lanes<V>(from + e, count - e), count - e);
    }
  }
  // A weight of 0 takes nothing of y, even of NaN.
  static S dot(const S* weights, const T* y, int64_t count) {
    V sum(S(0));
    for (int64_t e = 0; e < count; e += L) {
      const V w = load_lanes<V>(weights + e, count - e);
      sum = sum + unless_zero(w, w * load_lanes<V>(y + e, count - e));
    }
    return sum_of(sum);
  }
  // Output times gradient, in the order of the values' products with it: where a query sees one key
  // its output is that key's value, and the two cancel to nothing.
  S delta_of(const T* output) const {
    const T* const row[4] = {output, output, output, output};
    S sums[4];
    four_dots(s_.d_output, row, a_.Ev, sums);
    return sums[0];
  }

  void add_query(const Queries& q) {
    const int64_t row = (q.b * a_.N + q.n) * a_.Tq + q.i;
    S* const d_query = static_cast<S*>(a_.d_query) + (chunk_ * a_.B * a_.N * a_.Tq + row) * a_.E;
    clear_row(d_query, a_.E);
    const Keys all = seen_by_some(a_, q), keys = own_.within(all);
    const S* const parts = static_cast<const S*>(a_.logsumexp) + 2 * row;
    if (keys.is_empty() || parts[0] == kNothing) return;
    load_row(matrix_rows<T>(a_.query, q.b, q.n, q.i), a_.E, S(kAdditive ? 1 : a_.scale), s_.query);
    load_row(matrix_rows<T>(a_.grad_output, q.b, q.n, q.i), a_.Ev, S(1), s_.d_output);
    const Scores of(a_, q, s_.query);
    S delta = delta_of(matrix_rows<T>(a_.output, q.b, q.n, q.i));
    const T* grad_weights = nullptr;
    if (a_.grad_weights) {
      grad_weights = static_cast<const T*>(a_.grad_weights) + row * a_.Tk;
      weights_of(of, all, parts);
      if (a_.dropout.is_on) apply_factor(s_.weights, all.count());
      delta += dot(s_.weights, grad_weights + all.first, all.count());
    }
    weights_of(of, keys, parts);
    score_gradients(of, keys, delta, grad_weights);
    if (a_.d_mask) add_mask_gradient(q, keys);
    if (a_.dropout.is_on) apply_factor(s_.weights, keys.count());
    if (is_started_) {
      add_gradients<true>(of, keys, d_query);
    } else {
      start(keys);
      add_gradients<false>(of, keys, d_query);
    }
  }
  template <bool kAdd>
  void add_gradients(const Scores& of, Keys keys, S* d_query) {
    for (int64_t j = 0; j < keys.count(); ++j) {
      take_scaled<kAdd>(s_.d_output, a_.Ev, s_.weights[j],
                        s_.d_value + (keys.first - own_.first + j) * a_.Ev);
    }
    if constexpr (kAdditive) {
      add_units<kAdd>(of, keys, d_query);
    } else {
      add_products<kAdd>(of, keys, d_query);
    }
  }

  // Before dropout; and what dropout makes of them.
  void weights_of(const Scores& of, Keys keys, const S* parts) {
    of.compute(keys, s_.weights, s_.slope);
    for (int64_t j = 0; j < keys.count(); j += L) {
      const int64_t n = keys.count() - j;
      const V below = load_lanes<V>(s_.weights + j, n) - V(parts[0]);
      store_lanes(s_.weights + j, exp_below(below - V(parts[1])), n);
    }
    if (a_.dropout.is_on) of.fill_dropout(keys, s_.factor);
  }
  void apply_factor(S* to, int64_t count) const {
    for (int64_t j = 0; j < count; ++j) to[j] *= s_.factor[j];
  }

  void score_gradients(const Scores& of, Keys keys, S delta, const T* grad_weights) {
    for (int64_t j = keys.first; j < keys.last; j += 4) {
      const T* row[4];
      for (int m = 0; m < 4; ++m) row[m] = of.value(at_most(j + m, keys.last - 1));
      four_dots(s_.d_output, row, a_.Ev, s_.d_scores + j - keys.first);
    }
    for (int64_t j = 0; j < keys.count(); j += L) {
      const int64_t n = keys.count() - j;
      V d = load_lanes<V>(s_.d_scores + j, n);
      if (grad_weights) d = d + load_lanes<V>(grad_weights + keys.first + j, n);
      if (a_.dropout.is_on) d = d * load_lanes<V>(s_.factor + j, n);
      const V weight = load_lanes<V>(s_.weights + j, n);
      V slope = weight * (d - V(delta));
      if (a_.dropout.is_on) slope = select(weight < V(S(1)), slope, V(S(0)));
      store_lanes(s_.d_scores + j, unless_zero(weight, slope), n);
    }
  }

  void add_mask_gradient(const Queries& q, Keys keys) const {
    const auto& m = a_.mask;
    S* const to = static_cast<S*>(a_.d_mask) + q.b * m.batch + q.n * m.head + q.i * m.query;
    for (int64_t j = keys.first; j < keys.last; ++j) {
      to[j * m.key] += s_.d_scores[j - keys.first];
    }
  }

  template <bool kAdd>
  static void take_scaled(const S* from, int64_t width, S factor, S* to) {
    for (int64_t e = 0; e < width; e += L) {
      const int64_t n = width - e;
      const V scaled = V(factor) * load_lanes<V>(from + e, n);
      store_lanes(to + e, kAdd ? load_lanes<V>(to + e, n) + scaled : scaled, n);
    }
  }

  template <bool kAdd>
  void add_products(const Scores& of, Keys keys, S* d_query) {
    if (a_.softcap > 0) {
      for (int64_t j = 0; j < keys.count(); ++j) {
        if (s_.d_scores[j] != S(0)) s_.d_scores[j] *= s_.slope[j];
      }
    }
    for (int64_t j = 0; j < keys.count(); ++j) {
      take_scaled<kAdd>(s_.query, a_.E, s_.d_scores[j],
                        s_.d_key + (keys.first - own_.first + j) * a_.E);
    }
    add_rows<T>(
        keys.count(), s_.d_scores, [&](int64_t j) { return of.key(keys.first + j); }, a_.E,
        d_query);
    for (int64_t e = 0; e < a_.E; ++e) d_query[e] *= S(a_.scale);
  }

  // With r = (1 - tanh) / 2, tanh' = 4 (r - r r).
  template <bool kAdd>
  void add_units(const Scores& of, Keys keys, S* d_query) {
    for (int64_t j = keys.first; j < keys.last; ++j) {
      const V gradient(s_.d_scores[j - keys.first]);
      total_ += s_.d_scores[j - keys.first];
      const T* const key = of.key(j);
      S* const d_key = s_.d_key + (j - own_.first) * a_.E;
      for (int64_t d = 0; d < a_.E; d += L) {
        const int64_t n = a_.E - d;
        const V half = unless_zero(gradient, of.half(key, d));
        const V through = gradient * V(S(4)) * of.unit(d) * (half - half * half);
        store_lanes(d_query + d, load_lanes<V>(d_query + d, n) + through, n);
        store_lanes(d_key + d, kAdd ? load_lanes<V>(d_key + d, n) + through : through, n);
        store_lanes(s_.d_units + d, load_lanes<V>(s_.d_units + d, n) + gradient * half, n);
      }
    }
  }

  const cpu::AttentionBackwardArgs& a_;
  Scratch s_;
  const int64_t task_, chunk_;
  int64_t b_ = 0, key_head_ = 0;
  Keys own_{};
  bool is_started_ = false;
  S total_ = 0;  // of an additive score's gradients
};

}  // namespace
}  // namespace fastcells
