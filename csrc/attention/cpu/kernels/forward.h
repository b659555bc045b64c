// Attention forward: a block of queries of one head passes over the keys with a running softmax
// (Dao, Fu, Ermon, Rudra and Re, 2022, arXiv 2205.14135). Queries are lanes throughout; the output
// is transposed back at the end.
#pragma once
#include "attention/cpu/kernels/additive_powers.h"
#include "attention/cpu/kernels/hidden.h"

namespace fastcells {
namespace {

template <class T, class S, bool kAdditive>
class AttentionForward {
  using Shape = AttentionShape<T, S>;
  using V = typename Shape::V;
  static constexpr int L = Shape::L, R = Shape::R, P = Shape::P, kPanels = Shape::kPanels;
  static constexpr int64_t kKeys = Shape::kKeys;
  // Weights are written as they are summed up, and scaled at the end; those of 16 bits would be
  // rounded twice, and are computed again.
  static constexpr bool kKeepsWeights = std::is_same_v<T, S>;

 public:
  static int64_t blocks(const AttentionArgs& a) { return divide_up(a.Tq, Shape::kQueries); }
  static int64_t tasks(const AttentionArgs& a) { return a.B * a.N * blocks(a); }

  AttentionForward(const AttentionForwardArgs& a, int64_t task, void* scratch)
      : a_(a), s_(a, static_cast<char*>(scratch)) {
    const int64_t head = task / blocks(a);
    q_.b = head / a.N, q_.n = head % a.N, q_.i = task % blocks(a) * Shape::kQueries;
    q_.count = at_most(Shape::kQueries, a.Tq - q_.i);
    key_head_ = q_.n / (a.N / a.Nk);
  }
  static std::size_t scratch_bytes(const AttentionArgs& a) { return Scratch(a, nullptr).bytes; }

  void run() {
    const int panels = int(divide_up(q_.count, P));
    for (int p = 0; p < panels; ++p) load_queries(p);
    seen_ = seen_by_some(a_, q_);
    for (int64_t k = seen_.first; k < seen_.last; k += kKeys) {
      const Keys block{k, at_most(k + kKeys, seen_.last)};
      const auto keys = block_rows<T>(a_.key, q_.b, key_head_, block, a_.E, s_.key_copy);
      const auto values = block_rows<T>(a_.value, q_.b, key_head_, block, a_.Ev, s_.value_copy);
      if constexpr (kAdditive) s_.powers.take_keys(keys, block.count(), a_.E);
      const auto clean = HiddenRows<Shape>::may_hide(a_, q_, block)
                             ? hidden_.take_out(values, block.count(), a_.Ev, s_.clean)
                             : values;
      for (int p = 0; p < panels; ++p) {
        add_block(p, block, keys, clean);
        if (clean.first != values.first) add_hidden(p, block, values);
      }
    }
    for (int p = 0; p < panels; ++p) store_output(p);
    if (!a_.weights) return;
    for (int p = 0; p < panels; ++p) {
      clear_weights(p);
      if constexpr (kKeepsWeights) {
        finish_weights(p);
      } else {
        store_weights(p);
      }
    }
  }

 private:
  struct Scratch {
    S* query;       // [panels][E][P], scaled
    S* output;      // [panels][Ev][P]
    S* key_copy;    // [kKeys][E]
    S* value_copy;  // [kKeys][Ev]
    S* clean;       // [kKeys][Ev]: values without what is not finite
    S* scores;      // [kKeys][P]
    S* bias;        // [kKeys][P]
    S* factor;      // [kKeys][P]
    S* maxima;      // [blocks of keys][panels][P]: the largest score so far, of weights kept
    AdditivePowers<Shape> powers;
    std::size_t bytes;
    Scratch(const AttentionArgs& a, char* base) {
      Arena arena{base};
      query = arena.take<S>(kPanels * a.E * P);
      output = arena.take<S>(kPanels * a.Ev * P);
      key_copy = arena.take<S>(kKeys * a.E);
      value_copy = arena.take<S>(kKeys * a.Ev), clean = arena.take<S>(kKeys * a.Ev);
      scores = arena.take<S>(kKeys * P);
      bias = arena.take<S>(kKeys * P);
      factor = arena.take<S>(kKeys * P);
      maxima = arena.take<S>(kKeepsWeights ? divide_up(a.Tk, kKeys) * kPanels * P : 0);
      if constexpr (kAdditive) powers.take(arena, a.E);
      bytes = arena.used;
    }
  };

  Queries panel(int p) const { return {q_.b, q_.n, q_.i + p * P, at_most(P, q_.count - p * P)}; }

  void load_queries(int p) {
    const Queries q = panel(p);
    const T* const rows = matrix_rows<T>(a_.query, q.b, q.n, q.i);
    S* const lanes = s_.query + p * a_.E * P;
    FC_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t count = q.count - r * L;
      const T* const from = count > 0 ? rows + r * L * a_.query.row : rows;
      rows_to_lanes(from, a_.query.row, count, a_.E, lanes + r * L, P, S(kAdditive ? 1 : a_.scale));
      softmax_[p][r] = {};
    }
    if constexpr (kAdditive) s_.powers.take_queries(p, lanes, a_.E);
    is_started_[p] = false;
  }

  void score(const Queries& q, int p, Keys keys, StridedRows<S> rows, V (&largest)[R]) {
    const S* const query = s_.query + p * a_.E * P;
    if constexpr (kAdditive) {
      s_.powers.score(a_, p, query, rows, keys.count()).scores(s_.scores, P);
    } else {
      panel_product<R>(keys.count(), rows, a_.E, Panel<S>{query, P}, Start::kZero, s_.scores, P);
    }
    ScorePanel<Shape>(a_, q, s_.bias).finish(keys, s_.scores, P, nullptr, largest);
  }

  void add_block(int p, Keys block, StridedRows<S> keys, StridedRows<S> values) {
    const Queries q = panel(p);
    const Keys seen = block.within(seen_by_some(a_, q));
    if (seen.is_empty()) return;
    const int64_t first = seen.first - block.first;
    V largest[R];
    score(q, p, seen, {keys.first + first * keys.stride, keys.stride}, largest);
    S* const output = s_.output + p * a_.Ev * P;
    exponentials(p, seen.count(), largest, output);
    if (a_.dropout.is_on) {
      ScorePanel<Shape>(a_, q, s_.bias).fill_dropout(seen, s_.factor);
      for (int64_t j = 0; j < seen.count() * P; j += L) {
        (V::load(s_.scores + j) * V::load(s_.factor + j)).store(s_.scores + j);
      }
    }
    if constexpr (kKeepsWeights) {
      if (a_.weights) keep_weights(p, block.first, seen);
    }
    const StridedColumns<S> columns{values.first + first * values.stride, values.stride};
    panel_product<R>(a_.Ev, columns, seen.count(), Panel<S>{s_.scores, P},
                     is_started_[p] ? Start::kOut : Start::kZero, output, P);
    is_started_[p] = true;
  }

  // Of the block whose weights the tile of scores still holds.
  void add_hidden(int p, Keys block, StridedRows<S> values) {
    const Keys seen = block.within(seen_by_some(a_, panel(p)));
    if (seen.is_empty()) return;
    hidden_.add({seen.first - block.first, seen.last - block.first}, values, a_.Ev, s_.scores,
                s_.output + p * a_.Ev * P);
  }

  // Scores become e^(score - maximum) and go into the sum; what came before is scaled down.
  void exponentials(int p, int64_t count, const V (&largest)[R], S* output) {
    V factor[R], reference[R], sum[R];
    FC_UNROLL
    for (int r = 0; r < R; ++r) {
      factor[r] = softmax_[p][r].raise(largest[r]);
      reference[r] = softmax_[p][r].reference();
      sum[r] = V(S(0));
    }
    for (int64_t j = 0; j < count; ++j) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        const V w = exp_below(V::load(s_.scores + j * P + r * L) - reference[r]);
        sum[r] = sum[r] + w;
        w.store(s_.scores + j * P + r * L);
      }
    }
    FC_UNROLL
    for (int r = 0; r < R; ++r) softmax_[p][r].sum = softmax_[p][r].sum + sum[r];
    if (!is_started_[p]) return;
    for (int64_t e = 0; e < a_.Ev; ++e) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        S* const o = output + e * P + r * L;
        (V::load(o) * factor[r]).store(o);
      }
    }
  }

  void store_output(int p) {
    const Queries q = panel(p);
    const int64_t row = (q.b * a_.N + q.n) * a_.Tq + q.i;
    S* const lanes = s_.output + p * a_.Ev * P;
    if (!is_started_[p]) {
      for (int64_t e = 0; e < a_.Ev * P; ++e) lanes[e] = S(0);
    }
    FC_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t count = q.count - r * L;
      if (count <= 0) continue;
      T* const to = static_cast<T*>(a_.output) + (row + r * L) * a_.Ev;
      lanes_to_rows(lanes + r * L, P, count, a_.Ev, to, a_.Ev, softmax_[p][r].normaliser());
      const V largest = softmax_[p][r].max, log_sum = softmax_[p][r].log_sum();
      S* const parts = static_cast<S*>(a_.logsumexp) + (row + r * L) * 2;
      for (int64_t l = 0; l < at_most(count, L); ++l) {
        parts[2 * l] = largest.v[l], parts[2 * l + 1] = log_sum.v[l];
      }
    }
  }

  // [q.count][Tk]
  T* weights_of(const Queries& q) const {
    return static_cast<T*>(a_.weights) + ((q.b * a_.N + q.n) * a_.Tq + q.i) * a_.Tk;
  }
  // Of the keys that no query of the panel sees.
  void clear_weights(int p) {
    const Queries q = panel(p);
    const Keys seen = seen_by_some(a_, q);
    T* const rows = weights_of(q);
    for (int64_t i = 0; i < q.count; ++i) {
      clear(rows + i * a_.Tk, 0, at_most(seen.first, a_.Tk));
      clear(rows + i * a_.Tk, seen.is_empty() ? 0 : seen.last, a_.Tk);
    }
  }

  // Of the panel and the block of keys that begins there.
  S* maxima(int p, int64_t key) {
    return s_.maxima + ((key - seen_.first) / kKeys * kPanels + p) * P;
  }
  // The tile of e^(score - maximum so far), and that maximum.
  void keep_weights(int p, int64_t block, Keys seen) {
    const Queries q = panel(p);
    T* const rows = weights_of(q) + seen.first;
    FC_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t count = q.count - r * L;
      if (count <= 0) continue;
      lanes_to_rows(s_.scores + r * L, P, count, seen.count(), rows + r * L * a_.Tk, a_.Tk,
                    V(S(1)));
      softmax_[p][r].max.store(maxima(p, block) + r * L);
    }
  }
  // What was kept, measured from the last maximum, over the sum.
  void finish_weights(int p) {
    const Queries q = panel(p);
    const Keys all = seen_by_some(a_, q);
    T* const rows = weights_of(q);
    for (int64_t k = seen_.first; k < seen_.last; k += kKeys) {
      const Keys seen = Keys{k, at_most(k + kKeys, seen_.last)}.within(all);
      for (int r = 0; r < R && !seen.is_empty(); ++r) {
        const V before = V::load(maxima(p, k) + r * L) - softmax_[p][r].reference();
        const V factor = exp_below(before) * softmax_[p][r].normaliser();
        for (int64_t l = 0; l < at_most(q.count - r * L, L); ++l) {
          scale(rows + (r * L + l) * a_.Tk, seen, factor.v[l]);
        }
      }
    }
  }
  static void scale(S* row, Keys keys, S factor) {
    int64_t j = keys.first;
    for (; j + L <= keys.last; j += L) (V::load(row + j) * V(factor)).store(row + j);
    for (; j < keys.last; ++j) row[j] *= factor;
  }

  // The scores once more, now that their sum is known.
  void store_weights(int p) {
    const Queries q = panel(p);
    const Keys seen = seen_by_some(a_, q);
    T* const rows = weights_of(q);
    for (int64_t k = seen.first; k < seen.last; k += kKeys) {
      const Keys block{k, at_most(k + kKeys, seen.last)};
      const auto keys = block_rows<T>(a_.key, q.b, key_head_, block, a_.E, s_.key_copy);
      if constexpr (kAdditive) s_.powers.take_keys(keys, block.count(), a_.E);
      V largest[R];
      score(q, p, block, keys, largest);
      if (a_.dropout.is_on) ScorePanel<Shape>(a_, q, s_.bias).fill_dropout(block, s_.factor);
      FC_UNROLL
      for (int r = 0; r < R; ++r) store_weight_lanes(p, q, r, block, rows + k);
    }
  }
  void store_weight_lanes(int p, const Queries& q, int r, Keys block, T* rows) {
    const int64_t count = q.count - r * L;
    if (count <= 0) return;
    const V reference = softmax_[p][r].reference();
    for (int64_t j = 0; j < block.count(); ++j) {
      S* const s = s_.scores + j * P + r * L;
      const V w = exp_below(V::load(s) - reference);
      (a_.dropout.is_on ? w * V::load(s_.factor + j * P + r * L) : w).store(s);
    }
    lanes_to_rows(s_.scores + r * L, P, count, block.count(), rows + r * L * a_.Tk, a_.Tk,
                  softmax_[p][r].normaliser());
  }
  static void clear(T* row, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) row[j] = T{};
  }

  const AttentionForwardArgs& a_;
  Queries q_{};
  int64_t key_head_ = 0;
  Keys seen_{};  // by some of the queries
  OnlineSoftmax<V, S> softmax_[kPanels][R];
  bool is_started_[kPanels];
  HiddenRows<Shape> hidden_;
  Scratch s_;
};

}  // namespace
}  // namespace fastcells
