// Attention backward: a task owns a range of keys of one key head, and passes over the queries of
// every head that reads them. Scores and weights are computed again from the logsumexp; nothing is
// shared between tasks but the gradient of the queries, which has a part a key range.
#pragma once
#include "attention/cpu/kernels/backward_scratch.h"
#include "attention/cpu/kernels/hidden.h"

namespace fastcells {
namespace {

template <class T, class S, bool kAdditive>
class AttentionBackward {
  using Shape = AttentionShape<T, S>;
  using V = typename Shape::V;
  static constexpr int L = Shape::L, R = Shape::R, P = Shape::P, kPanels = Shape::kPanels;
  static constexpr int64_t kKeys = Shape::kKeys, kQueries = Shape::kQueries;
  using Scratch = AttentionBackwardScratch<Shape, kAdditive>;
  static constexpr int64_t kStride = Scratch::kStride;
  static int64_t padded(int64_t width) { return Scratch::padded(width); }
  static int64_t chunk_keys(const cpu::AttentionBackwardArgs& a) { return Scratch::chunk_keys(a); }

 public:
  static int64_t tasks(const cpu::AttentionBackwardArgs& a) { return a.B * a.Nk * a.key_chunks; }
  static std::size_t scratch_bytes(const cpu::AttentionBackwardArgs& a) {
    return Scratch(a, nullptr).bytes;
  }

  AttentionBackward(const cpu::AttentionBackwardArgs& a, int64_t task, void* scratch)
      : a_(a), s_(a, static_cast<char*>(scratch)), chunk_(task % a.key_chunks), task_(task) {
    const int64_t head = task / a.key_chunks;
    b_ = head / a.Nk, key_head_ = head % a.Nk;
    own_ = {at_most(chunk_ * chunk_keys(a), a.Tk), at_most((chunk_ + 1) * chunk_keys(a), a.Tk)};
  }

  void run() {
    fill(s_.d_key, divide_up(own_.count(), kKeys) * kKeys * padded(a_.E), S(0));
    fill(s_.d_value, own_.count() * padded(a_.Ev), S(0));
    if (kAdditive) fill(s_.d_units, a_.E * P, S(0));
    const int64_t heads = a_.N / a_.Nk;
    for (int64_t n = key_head_ * heads; n < (key_head_ + 1) * heads; ++n) {
      for (int64_t i = 0; i < a_.Tq; i += kQueries) {
        q_ = {b_, n, i, at_most(kQueries, a_.Tq - i)};
        add_queries();
      }
    }
    const int64_t row = (b_ * a_.Nk + key_head_) * a_.Tk + own_.first;
    if constexpr (kAdditive) {
      store_units();
      store_key_groups(static_cast<T*>(a_.d_key) + row * a_.E);
    } else {
      store_rows(s_.d_key, padded(a_.E), a_.E, static_cast<T*>(a_.d_key) + row * a_.E);
    }
    store_rows(s_.d_value, padded(a_.Ev), a_.Ev, static_cast<T*>(a_.d_value) + row * a_.Ev);
  }

 private:
  static void fill(S* to, int64_t count, S value) {
    for (int64_t i = 0; i < count; ++i) to[i] = value;
  }
  void store_rows(const S* from, int64_t stride, int64_t width, T* to) const {
    for (int64_t j = 0; j < own_.count(); ++j) {
      for (int64_t e = 0; e < width; e += L) {
        store_lanes(to + j * width + e, V::load(from + j * stride + e), width - e);
      }
    }
  }

  // The factor that an additive score's gradients were left without (Additive::gradients).
  S unit_factor(int64_t d) const { return 4 * static_cast<const S*>(a_.units)[d]; }
  void store_key_groups(T* to) const {
    for (int64_t j = 0; j < own_.count(); ++j) {
      const S* const group = s_.d_key + j / 4 * 4 * a_.E + j % 4;
      for (int64_t d = 0; d < a_.E; ++d) {
        store_first(to + j * a_.E + d, V(group[d * 4] * unit_factor(d)), 1);
      }
    }
  }
  void scale_query_gradient() {
    for (int64_t i = 0; i < kPanels * a_.E; ++i) {
      const V factor(unit_factor(i % a_.E));
      for (int c = 0; c < P; c += L) {
        S* const d = s_.d_query + i * P + c;
        (V::load(d) * factor).store(d);
      }
    }
  }
  void add_to_total(const S* d_scores, int64_t count) {
    for (int64_t j = 0; j < count; ++j) {
      for (int c = 0; c < P; c += L) total_ = total_ + V::load(d_scores + j * kStride + c);
    }
  }
  // sum ds tanh = sum ds - 2 sum ds r
  void store_units() const {
    S* const to = static_cast<S*>(a_.d_units) + task_ * a_.E;
    for (int64_t d = 0; d < a_.E; ++d) {
      V sum(S(0));
      for (int c = 0; c < P; c += L) sum = sum + V::load(s_.d_units + d * P + c);
      to[d] = sum_of(total_) - 2 * sum_of(sum);
    }
  }

  S score_scale() const { return kAdditive ? S(1) : S(a_.scale); }
  int panels() const { return int(divide_up(q_.count, P)); }
  Queries panel(int p) const { return {q_.b, q_.n, q_.i + p * P, at_most(P, q_.count - p * P)}; }
  int64_t first_row(const Queries& q) const { return (q.b * a_.N + q.n) * a_.Tq + q.i; }

  // All keys of the task, for one block of queries.
  void add_queries() {
    fill(s_.d_query, kPanels * a_.E * P, S(0));
    const Keys seen = own_.within(seen_by_some(a_, q_));
    if (!seen.is_empty()) {
      load_queries();
      if (a_.grad_weights) add_to_delta();
      for (int64_t k = seen.first; k < seen.last; k += kKeys) {
        add_block({k, at_most(k + kKeys, seen.last)});
      }
    }
    S* const rows =
        static_cast<S*>(a_.d_query) + (chunk_ * a_.B * a_.N * a_.Tq + first_row(q_)) * a_.E;
    if constexpr (kAdditive) scale_query_gradient();
    for (int p = 0; p < panels(); ++p) {
      for (int r = 0; r < R; ++r) {
        const int64_t first = p * P + r * L, count = q_.count - first;
        if (count <= 0) continue;
        lanes_to_rows(s_.d_query + p * a_.E * P + r * L, P, count, a_.E, rows + first * a_.E, a_.E,
                      V(score_scale()));
      }
    }
  }

  void load_queries() {
    const S* const parts = static_cast<const S*>(a_.logsumexp) + first_row(q_) * 2;
    for (int64_t i = 0; i < kQueries; ++i) {
      const bool sees = i < q_.count && parts[2 * i] != Shape::kNothing;
      s_.largest[i] = sees ? parts[2 * i] : -Shape::kNothing;
      s_.log_sum[i] = sees ? parts[2 * i + 1] : S(0);
    }
    load_matrix(a_.query, a_.E, score_scale(), s_.query, s_.query_rows);
    for (int p = 0; kAdditive && p < panels(); ++p) {
      s_.powers.take_queries(p, s_.query + p * a_.E * P, a_.E);
    }
    load_matrix(a_.grad_output, a_.Ev, S(1), s_.d_output, s_.d_rows);
    for (int p = 0; p < panels(); ++p) set_delta(p);
  }
  // As lanes, and as rows padded with zeros to whole panels and blocks; zeros, too, for a query
  // that sees nothing.
  void load_matrix(const HeadMatrix& m, int64_t width, S factor, S* lanes, S* rows) {
    const int64_t stride = padded(width);
    fill(rows, kQueries * stride, S(0));
    for (int64_t i = 0; i < q_.count; ++i) {
      if (s_.largest[i] == -Shape::kNothing) continue;
      const T* const from = matrix_rows<T>(m, q_.b, q_.n, q_.i + i);
      for (int64_t e = 0; e < width; e += L) {
        (load_lanes<V>(from + e, width - e) * V(factor)).store(rows + i * stride + e);
      }
    }
    for (int p = 0; p < panels(); ++p) {
      for (int r = 0; r < R; ++r) {
        rows_to_lanes(rows + (p * P + r * L) * stride, stride, L, width,
                      lanes + p * width * P + r * L, P, S(1));
      }
    }
  }
  // Output times gradient, in the order of the values' products with it (panel_product): where a
  // query sees one key its output is that key's value, and the two cancel to nothing.
  void set_delta(int p) {
    const Queries q = panel(p);
    const T* const rows = matrix_rows<T>(a_.output, q.b, q.n, q.i);
    FC_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t count = q.count - r * L;
      rows_to_lanes(count > 0 ? rows + r * L * a_.output.row : rows, a_.output.row, count, a_.Ev,
                    s_.output + r * L, P, S(1));
      const S* const gradient = s_.d_output + p * a_.Ev * P + r * L;
      V sum(S(0));
      for (int64_t e = 0; e < a_.Ev; ++e) {
        multiply_add(sum, V::load(s_.output + e * P + r * L), V::load(gradient + e * P));
      }
      sum.store(s_.delta + p * P + r * L);
    }
  }

  // delta += sum_j w_ij grad_weights_ij, over all keys, not the task's alone.
  void add_to_delta() {
    const Keys seen = seen_by_some(a_, q_);
    for (int64_t k = seen.first; k < seen.last; k += kKeys) {
      const Keys block{k, at_most(k + kKeys, seen.last)};
      const auto keys = block_rows<T>(a_.key, b_, key_head_, block, a_.E, s_.key_copy);
      if constexpr (kAdditive) s_.powers.take_keys(keys, block.count(), a_.E);
      for (int p = 0; p < panels(); ++p) {
        compute_weights(p, block, keys, s_.weights);
        load_grad_weights(p, block);
        S* const delta = s_.delta + p * P;
        for (int64_t j = 0; j < block.count(); ++j) {
          for (int c = 0; c < P; c += L) {
            V w = V::load(s_.weights + j * kStride + c);
            if (a_.dropout.is_on) w = w * V::load(s_.factor + j * P + c);
            const V share = unless_zero(w, w * V::load(s_.grad_weights + j * P + c));
            (V::load(delta + c) + share).store(delta + c);
          }
        }
      }
    }
  }
  void load_grad_weights(int p, Keys keys) {
    const Queries q = panel(p);
    const T* const rows =
        static_cast<const T*>(a_.grad_weights) + first_row(q) * a_.Tk + keys.first;
    for (int r = 0; r < R; ++r) {
      const int64_t count = q.count - r * L;
      rows_to_lanes(count > 0 ? rows + r * L * a_.Tk : rows, a_.Tk, count, keys.count(),
                    s_.grad_weights + r * L, P, S(1));
    }
  }

  // weights [keys][kStride]: e^(score - largest - log_sum), before dropout.
  void compute_weights(int p, Keys keys, StridedRows<S> rows, S* weights) {
    const S* const query = s_.query + p * a_.E * P;
    if constexpr (kAdditive) {
      s_.powers.score(a_, p, query, rows, keys.count()).scores(weights, kStride);
    } else {
      panel_product<R>(keys.count(), rows, a_.E, Panel<S>{query, P}, Start::kZero, weights,
                       kStride);
    }
    ScorePanel<Shape> panel_scores(a_, panel(p), s_.bias);
    V largest[R];
    panel_scores.finish(keys, weights, kStride, s_.slope, largest);
    if (a_.dropout.is_on) panel_scores.fill_dropout(keys, s_.factor);
    for (int r = 0; r < R; ++r) {
      const V most = V::load(s_.largest + p * P + r * L);
      const V log_sum = V::load(s_.log_sum + p * P + r * L);
      for (int64_t j = 0; j < keys.count(); ++j) {
        S* const w = weights + j * kStride + r * L;
        exp_below((V::load(w) - most) - log_sum).store(w);
      }
    }
  }

  void add_block(Keys block) {
    const auto keys = block_rows<T>(a_.key, b_, key_head_, block, a_.E, s_.key_copy);
    if constexpr (kAdditive) s_.powers.take_keys(keys, block.count(), a_.E);
    const auto values = block_rows<T>(a_.value, b_, key_head_, block, a_.Ev, s_.value_copy);
    const auto clean = HiddenRows<Shape>::may_hide(a_, q_, block)
                           ? HiddenRows<Shape>().take_out(keys, block.count(), a_.E, s_.clean)
                           : keys;
    for (int p = 0; p < panels(); ++p) {
      const Keys seen = block.within(seen_by_some(a_, panel(p)));
      const int64_t first = seen.is_empty() ? block.count() : seen.first - block.first;
      clear_tiles(p, 0, first);
      clear_tiles(p, first + seen.count(), block.count());
      if (seen.is_empty()) continue;
      add_panel(p, seen, keys.from(first), clean.from(first), values.from(first), first);
    }
    const int64_t row = block.first - own_.first, queries = panels() * P;
    if (!kAdditive)
      add_key_gradient(s_.d_scores, block.count(), queries, s_.query_rows, padded(a_.E),
                       s_.d_key + row * padded(a_.E));
    add_key_gradient(s_.weights, block.count(), queries, s_.d_rows, padded(a_.Ev),
                     s_.d_value + row * padded(a_.Ev));
  }
  void clear_tiles(int p, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      fill(s_.weights + j * kStride + p * P, P, S(0));
      fill(s_.d_scores + j * kStride + p * P, P, S(0));
    }
  }
  // to [keys][width] += tile [keys][queries] rows [queries][width]
  static void add_key_gradient(const S* tile, int64_t keys, int64_t queries, const S* rows,
                               int64_t width, S* to) {
    for (int64_t e = 0; e < width; e += P) {
      panel_product<R>(keys, StridedRows<S>{tile, kStride}, queries, Panel<S>{rows + e, width},
                       Start::kOut, to + e, width);
    }
  }

  // The tiles of one panel of queries, from row `first` of the block on, and its d_query.
  // `clean`: the keys again, for their product with gradients. A query that sees a key which is
  // not finite has no finite gradient to begin with.
  void add_panel(int p, Keys seen, StridedRows<S> keys, StridedRows<S> clean, StridedRows<S> values,
                 int64_t first) {
    S* const weights = s_.weights + first * kStride + p * P;
    S* const d_scores = s_.d_scores + first * kStride + p * P;
    compute_weights(p, seen, keys, weights);
    panel_product<R>(seen.count(), values, a_.Ev, Panel<S>{s_.d_output + p * a_.Ev * P, P},
                     Start::kZero, d_scores, kStride);
    if (a_.grad_weights) load_grad_weights(p, seen);
    for (int r = 0; r < R; ++r) score_gradients(p, r, seen.count(), weights, d_scores);
    if (a_.d_mask) add_mask_gradient(panel(p), seen, d_scores);
    if (a_.softcap > 0) {
      for (int64_t j = 0; j < seen.count(); ++j) {
        for (int c = 0; c < P; c += L) {
          S* const d = d_scores + j * kStride + c;
          const V gradient = V::load(d);
          unless_zero(gradient, gradient * V::load(s_.slope + j * P + c)).store(d);
        }
      }
    }
    S* const d_query = s_.d_query + p * a_.E * P;
    if constexpr (kAdditive) {
      s_.powers.score(a_, p, s_.query + p * a_.E * P, keys, seen.count())
          .gradients(d_scores, kStride, d_query, s_.d_key + (seen.first - own_.first) * a_.E,
                     s_.d_units);
      add_to_total(d_scores, seen.count());
    } else {
      panel_product<R>(a_.E, StridedColumns<S>{clean.first, clean.stride}, seen.count(),
                       Panel<S>{d_scores, kStride}, Start::kOut, d_query, P);
    }
  }

  // d_scores: in, the gradient of the weights after dropout; out, of the masked scores. weights:
  // out, after dropout.
  void score_gradients(int p, int r, int64_t count, S* weights, S* d_scores) {
    const V delta = V::load(s_.delta + p * P + r * L);
    for (int64_t j = 0; j < count; ++j) {
      S* const w = weights + j * kStride + r * L;
      S* const d = d_scores + j * kStride + r * L;
      V weight = V::load(w), gradient = V::load(d);
      if (a_.grad_weights) gradient = gradient + V::load(s_.grad_weights + j * P + r * L);
      if (!a_.dropout.is_on) {
        unless_zero(weight, weight * (gradient - delta)).store(d);
        continue;
      }
      // Beside a weight of 1 nothing is left for others. Without dropout the difference is 0 there
      // by itself; here the factor has rounded its two terms in different places.
      const V factor = V::load(s_.factor + j * P + r * L);
      const V slope = weight * (gradient * factor - delta);
      unless_zero(weight, select(weight < V(S(1)), slope, V(S(0)))).store(d);
      (weight * factor).store(w);
    }
  }

  void add_mask_gradient(const Queries& q, Keys keys, const S* d_scores) {
    const auto& m = a_.mask;
    S* const to = static_cast<S*>(a_.d_mask) + q.b * m.batch + q.n * m.head + q.i * m.query +
                  keys.first * m.key;
    for (int r = 0; r < R; ++r) {
      const int64_t count = at_most(L, q.count - r * L);
      if (count <= 0) continue;
      S* const rows = to + r * L * m.query;
      if (m.query != 0 && m.key != 0) {
        lanes_to_rows<true>(d_scores + r * L, kStride, count, keys.count(), rows, m.query, V(S(1)));
        continue;
      }
      for (int64_t j = 0; j < keys.count(); ++j) {
        for (int64_t l = 0; l < count; ++l) {
          rows[l * m.query + j * m.key] += d_scores[j * kStride + r * L + l];
        }
      }
    }
  }

  const cpu::AttentionBackwardArgs& a_;
  Scratch s_;
  const int64_t chunk_;
  int64_t b_ = 0, key_head_ = 0;
  Keys own_{};
  const int64_t task_;
  V total_ = V(S(0));  // of an additive score's gradients
  Queries q_{};
};

}  // namespace
}  // namespace fastcells
