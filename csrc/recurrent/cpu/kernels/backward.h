// One direction of a layer back through time: a thread's rows and units.
//
//   for each chunk of steps, the last computed first:
//     (the gates of the chunk again, where they were not kept)
//     for each step:  gradients of the gates, own units        barrier
//                     carry_dh += dg W_hh, own units
//     barrier;  dW, db and d_input of the chunk's frames, own rows of each      barrier
//
// Frames of a chunk (frames.h) lie group after group, step after step, row after row in dx_gates.
#pragma once
#include "recurrent/cpu/kernels/recompute.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class Backward : GatesAgain<Cell, T, P> {
  using S = typename P::S;
  using Element = typename P::Row;
  // Of a product over frames; the frames of a pair are one element.
  using FrameElement = std::conditional_t<std::is_same_v<Element, BFloat16Pair>, Element, S>;
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Sh::G, C = Sh::kColumns;
  using Base = GatesAgain<Cell, T, P>;
  using Base::a_, Base::steps_, Base::arena_, Base::place_, Base::group_;
  using Base::chunk_begin, Base::list_frames, Base::input_row;
  using Base::compute_gates_again;
  using Base::entering, Base::load_entering, Base::units_of;
  using Base::frames_, Base::group_frame_, Base::frame_step_, Base::frame_row_;
  using typename Base::Entering;

 public:
  static std::size_t scratch_bytes(const cpu::BackwardArgs& a) {
    return Backward(a, nullptr).arena_.used;
  }

  Backward(const cpu::BackwardArgs& a, const cpu::Place& place) : Backward(a, place.scratch) {
    place_ = &place, group_ = &place.groups[place.group];
    own_ = share_of(divide_up(a.H, C), place.rank, place.threads);
  }

  void run() {
    start();
    bool is_first = true;
    for (int64_t end = a_.T; end > 0; is_first = false) {
      const int64_t begin = chunk_begin(end);
      list_frames(begin, end);
      if (!a_.saved) compute_gates_again();
      int64_t frame = group_frame_;
      for (int64_t i = end - 1; i >= begin; --i) {
        const int64_t t = steps_.step(i);
        run_step(t, frame);
        frame += group_->active[t];
      }
      add_up_chunk(is_first);
      end = begin;
    }
    finish();
  }

 private:
  Backward(const cpu::BackwardArgs& a, void* scratch) : Base(a, scratch), weights_(arena_, C) {
    const int64_t frames = a.chunk_frames;
    Arena& arena = arena_;
    rows_ = arena.take<const S*>(frames);
    if (P::kConverts) {
      elements_ = arena.take<const Element*>(frames);
      converted_ =
          arena.take<Element>((a.B > kBlockRows ? a.B : kBlockRows) * P::row_length(G * a.H));
    }
    products_ = arena.take<S>(kBlockRows * C);
    if (a.own_weight_hh) panel_ = arena.take<S>(G * a.H * C + kFewRows * a.padded_H);
  }

  S* carry(void* carries, int64_t r) const {
    return static_cast<S*>(carries) + (group_->first + r) * a_.padded_H;
  }
  // Own units of the carries: the gradients of the final states.
  void start() {
    for (int64_t r = 0; r < group_->rows; ++r) {
      const int64_t b = group_->order[r];
      for (int64_t u = own_.first * C; u < own_.last * C; u += L) {
        store(carry(a_.carry_dh, r) + u, given(a_.d_h_n, b, u));
        if (Cell::kStates == 2) store(carry(a_.carry_dc, r) + u, given(a_.d_c_n, b, u));
      }
    }
  }
  V given(const void* grads, int64_t b, int64_t u) const {
    if (!grads || u >= a_.H) return V(S(0));
    return load_lanes<V>(static_cast<const T*>(grads) + b * a_.H + u, a_.H - u);
  }

  // ---- one step ----

  void run_step(int64_t t, int64_t frame) {
    const int64_t n = group_->active[t], M = G * a_.H;
    const Range units{own_.first * C, at_most(own_.last * C, a_.H)};
    for (int64_t r = 0; r < n; ++r) {
      const Row row = row_at(t, r, frame + r);
      if (r + 1 < n) prefetch_saved(t * a_.B + group_->order[r + 1], units);
      for (int64_t u = units.first; u < units.last; u += L) run_cell(row, u);
    }
    wait(place_->group_barrier);
    list_rows(static_cast<const S*>(a_.dg_gates) + frame * M, n, !a_.own_weight_hh);
    if (a_.own_weight_hh && n <= kFewRows) {
      return add_few_states(n, units);
    }
    for (int64_t j = own_.first; j < own_.last; ++j) {
      // Back and forth, as on the way forward.
      const int64_t q = t & 1 ? own_.last - 1 - (j - own_.first) : j;
      S* const to = carry(a_.carry_dh, 0) + q * C;
      multiply(n, a_.plain_hh, a_.own_weight_hh, a_.H, q, to, a_.padded_H, to, a_.padded_H);
    }
  }

  // Rows of gates one after another, for multiply(); converted for packed panels.
  void list_rows(const S* first, int64_t n, bool is_packed) {
    const int64_t M = G * a_.H;
    for (int64_t i = 0; i < n; ++i) {
      rows_[i] = first + i * M;
      if constexpr (P::kConverts) {
        elements_[i] = converted_ + i * P::row_length(M);
        if (is_packed) P::convert(rows_[i], M, converted_ + i * P::row_length(M), nullptr, nullptr);
      }
    }
  }
  const Element* const* elements() const {
    if constexpr (P::kConverts) {
      return elements_;
    } else {
      return rows_;
    }
  }

  // out = rows_ times panel q of a weight [G*H, N], packed or as it lies, + init.
  void multiply(int64_t n, const void* packed, const void* own, int64_t N, int64_t q, const S* init,
                int64_t init_stride, S* out, int64_t out_stride) const {
    const int64_t M = G * a_.H;
    if (own) {
      const auto panel = plain_panel<Sh>(static_cast<const T*>(own), M, N, q, panel_);
      product_of<Sh::kPlain>(n, RowOperand<S>{rows_}, M, panel, init, init_stride, out, out_stride,
                             panel.first);
    } else {
      const char* const panel =
          static_cast<const char*>(packed) + q * P::template bytes<Sh::kPlain>(M);
      P::template multiply<Sh::kPlain>(n, PanelRows<Element>{elements()}, M, panel, init,
                                       init_stride, out, out_stride, nullptr);
    }
  }

  // carry_dh += dg W_hh of few rows; the carry, which may be large, is added last.
  void add_few_states(int64_t n, Range units) const {
    if (n == 0) return;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t u = units.first; u < units.last; u += L) {
        store_lanes(panel_ + r * a_.padded_H + u, V(S(0)), units.last - u);
      }
    }
    add_few_rows<V>(n, rows_, G * a_.H, static_cast<const T*>(a_.own_weight_hh), a_.H, units,
                    panel_, a_.padded_H);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t u = units.first; u < units.last; u += L) {
        S* const to = carry(a_.carry_dh, r) + u;
        store(to, load(to) + load_lanes<V>(panel_ + r * a_.padded_H + u, units.last - u));
      }
    }
  }

  // One row at one step: where its values begin; nullptr for zeros.
  struct Row {
    bool cut;
    const T* saved;        // [S*H]
    const S* saved_again;  // [S*H], in the place of saved
    const T* d_output;
    const S* d_cells;
    Entering entering;
    const S* c;
    S *carry_dh, *carry_dc;
    S *dx_gates, *dg_gates;  // [G*H]
  };
  FC_INLINE Row row_at(int64_t t, int64_t r, int64_t frame) const {
    const int64_t b = group_->order[r], row = t * a_.B + b;
    Row x{};
    x.cut = steps_.cut_after(t, b);
    x.saved = row_of<T>(a_.saved, row, a_.saved_stride);
    x.saved_again = row_of<S>(a_.saved_again, frame, Cell::kSaved * a_.H);
    x.d_output = row_of<T>(a_.d_output, row, a_.output_stride);
    x.entering = entering(t, b);
    if constexpr (Cell::kStates == 2) {
      x.d_cells = row_of<S>(a_.d_cells, row, a_.cells_stride);
      x.c = row_of<S>(a_.cells, row, a_.cells_stride);
      x.carry_dc = carry(a_.carry_dc, r);
    }
    x.carry_dh = carry(a_.carry_dh, r);
    x.dx_gates = static_cast<S*>(a_.dx_gates) + frame * G * a_.H;
    x.dg_gates = static_cast<S*>(a_.dg_gates) + frame * G * a_.H;
    return x;
  }
  FC_INLINE void prefetch_saved(int64_t row, Range units) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    const T* const saved = row_of<T>(a_.saved, row, a_.saved_stride);
    for (int k = 0; saved && k < Cell::kSaved; ++k) {
      for (int64_t u = units.first; u < units.last; u += kLine) {
        __builtin_prefetch(saved + k * a_.H + u);
      }
    }
  }

  FC_INLINE void run_cell(const Row& row, int64_t u) const {
    const int64_t n = a_.H - u;
    V saved[Cell::kSaved], prev[Cell::kStates], next[Cell::kStates], d_state[Cell::kStates];
    V dx[G], dg[G];
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] =
          row.saved ? units_of(row.saved + k * a_.H, u) : units_of(row.saved_again + k * a_.H, u);
    }
    d_state[0] = (row.cut ? V(S(0)) : load(row.carry_dh + u)) + units_of(row.d_output, u);
    load_entering(row.entering, u, prev);
    next[0] = V(S(0));
    if constexpr (Cell::kStates == 2) {
      d_state[1] = (row.cut ? V(S(0)) : load(row.carry_dc + u)) + units_of(row.d_cells, u);
      next[1] = units_of(row.c, u);
    }
    Cell::backward(saved, prev, next, d_state, dx, dg);
    store(row.carry_dh + u, d_state[0]);
    if constexpr (Cell::kStates == 2) store(row.carry_dc + u, d_state[1]);
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      store_lanes(row.dx_gates + k * a_.H + u, dx[k], n);
      if (!Cell::kAdditive) store_lanes(row.dg_gates + k * a_.H + u, dg[k], n);
    }
  }

  // ---- products over all frames of the chunk ----

  void add_up_chunk(bool is_first) {
    const int64_t M = G * a_.H;
    const auto dx = static_cast<const S*>(a_.dx_gates);
    const auto dg = static_cast<const S*>(a_.dg_gates);
    const auto d_weight_ih = static_cast<S*>(a_.d_weight_ih);
    const auto d_weight_hh = static_cast<S*>(a_.d_weight_hh);
    const auto x_row = [this](int64_t f) { return input_row(f); };
    const auto h_row = [this](int64_t f) { return entering(frame_step_[f], frame_row_[f]).h; };
    const bool is_few = is_first && a_.own_weight_hh && frames_ <= kFewRows;
    if (d_weight_ih && !is_few) pack_operand(a_.I, a_.plain_x, x_row);
    if (d_weight_hh && !is_few) pack_operand(a_.H, a_.plain_h, h_row);
    wait(place_->team_barrier);
    if (a_.d_input) add_input_gradient();
    const Range own = share_of(M, place_->team_rank, place_->team_threads);
    if (is_few) {
      const T *x_rows[kFewRows] = {}, *h_rows[kFewRows] = {};
      for (int64_t f = 0; f < frames_; ++f) x_rows[f] = x_row(f), h_rows[f] = h_row(f);
      if (d_weight_ih) few_frames_gradient<V>(dx, M, frames_, x_rows, a_.I, own, d_weight_ih);
      if (d_weight_hh) few_frames_gradient<V>(dg, M, frames_, h_rows, a_.H, own, d_weight_hh);
    }
    if (d_weight_ih && !is_few) {
      add_weight_gradient<Sh>(dx, M, static_cast<const FrameElement*>(a_.plain_x), a_.chunk_frames,
                              a_.I, frames_, own, is_first, d_weight_ih, weights_);
    }
    if (d_weight_hh && !is_few) {
      add_weight_gradient<Sh>(dg, M, static_cast<const FrameElement*>(a_.plain_h), a_.chunk_frames,
                              a_.H, frames_, own, is_first, d_weight_hh, weights_);
    }
    for (const auto& [grad, gates] : {std::pair{a_.d_bias_ih, dx}, {a_.d_bias_hh, dg}}) {
      if (grad) add_bias_gradient<Sh>(gates, M, frames_, own, is_first, static_cast<S*>(grad));
    }
    wait(place_->team_barrier);
  }

  template <class Row>
  void pack_operand(int64_t N, void* panels, Row row) const {
    constexpr int64_t kOf = std::is_same_v<FrameElement, S> ? 1 : 2;
    const Range own = share_of(divide_up(frames_, kOf), place_->team_rank, place_->team_threads);
    S pieces[2 * C];
    for (int64_t e = own.first; e < own.last; ++e) {
      const T* const from = row(e * kOf);
      const T* const next = kOf == 2 && e * 2 + 1 < frames_ ? row(e * 2 + 1) : nullptr;
      for (int64_t q = 0; q * C < N; ++q) {
        auto* const to =
            static_cast<FrameElement*>(panels) + (q * divide_up(a_.chunk_frames, kOf) + e) * C;
        if constexpr (kOf == 1) {
          pack_plain_panel<Sh>(from, N, q, to);
        } else {
          pack_plain_panel<Sh>(from, N, q, pieces), pack_plain_panel<Sh>(next, N, q, pieces + C);
          for (int64_t j = 0; j < C; j += L) {
            store_pairs(to + j, load(pieces + j), load(pieces + C + j));
          }
        }
      }
    }
  }

  // d_input = dx W_ih: own panels of its columns, or own frames where there are few panels.
  void add_input_gradient() {
    const int64_t M = G * a_.H, panels = divide_up(a_.I, C);
    const bool by_panels = panels >= 2 * place_->team_threads;
    const Range all_panels{0, panels}, all_frames{0, frames_};
    const auto share = [this](int64_t count) {
      return share_of(count, place_->team_rank, place_->team_threads);
    };
    const Range qs = by_panels ? share(panels) : all_panels;
    const Range fs = by_panels ? all_frames : share(frames_);
    if (a_.own_weight_ih && frames_ <= kFewRows && !a_.add_to_d_input) return add_few_inputs();
    for (int64_t f0 = fs.first; f0 < fs.last; f0 += kBlockRows) {
      const int64_t count = at_most(kBlockRows, fs.last - f0);
      list_rows(static_cast<const S*>(a_.dx_gates) + f0 * M, count, !a_.own_weight_ih);
      for (int64_t q = qs.first; q < qs.last; ++q) {
        multiply(count, a_.plain_ih, a_.own_weight_ih, a_.I, q, nullptr, 0, products_, C);
        for (int64_t i = 0; i < count; ++i) store_input_gradient(f0 + i, q, products_ + i * C);
      }
    }
  }
  // The same for few frames, own columns.
  void add_few_inputs() {
    const int64_t columns = divide_up(a_.I, L);
    const Range own = share_of(columns, place_->team_rank, place_->team_threads);
    const Range units{own.first * L, at_most(own.last * L, a_.I)};
    for (int64_t f = 0; f < frames_; ++f) {
      const S* const gates = static_cast<const S*>(a_.dx_gates) + f * G * a_.H;
      S* const to = static_cast<S*>(a_.d_input) + (frame_step_[f] * a_.B + frame_row_[f]) * a_.I;
      for (int64_t j = units.first; j < units.last; j += L) {
        store_lanes(to + j, V(S(0)), units.last - j);
      }
      add_few_rows<V, 1>(&gates, G * a_.H, static_cast<const T*>(a_.own_weight_ih), a_.I, units, to,
                         a_.I);
    }
  }
  FC_INLINE void store_input_gradient(int64_t f, int64_t q, const S* from) const {
    const int64_t row = frame_step_[f] * a_.B + frame_row_[f];
    S* const to = static_cast<S*>(a_.d_input) + row * a_.I + q * C;
    for (int v = 0; v < Sh::kPlain; ++v) {
      const int64_t n = a_.I - q * C - v * L;
      if (n <= 0) break;
      V sum = load(from + v * L);
      if (a_.add_to_d_input) sum = sum + load_lanes<V>(to + v * L, n);
      store_lanes(to + v * L, sum, n);
    }
  }

  // What is left in the carries belongs to the initial states.
  void finish() {
    for (int64_t r = 0; r < group_->rows; ++r) {
      const int64_t b = group_->order[r];
      const bool cut = steps_.cut_initial(b);
      for (int64_t u = own_.first * C; u < at_most(own_.last * C, a_.H); u += L) {
        put_initial(a_.d_h_0, b, u, cut ? V(S(0)) : load(carry(a_.carry_dh, r) + u));
        if (Cell::kStates == 2) {
          put_initial(a_.d_c_0, b, u, cut ? V(S(0)) : load(carry(a_.carry_dc, r) + u));
        }
      }
    }
  }
  void put_initial(void* grads, int64_t b, int64_t u, V x) const {
    if (grads) store_lanes(static_cast<S*>(grads) + b * a_.H + u, x, a_.H - u);
  }

  const WeightScratch<S, FrameElement> weights_;
  Range own_{};                         // plain panels of units of this thread
  const S** rows_;                      // [chunk frames]
  const Element** elements_ = nullptr;  // the same, converted
  Element* converted_ = nullptr;        // [rows][G*H]
  S* products_;                         // [kBlockRows][C]
  S* panel_ = nullptr;  // [G*H][C] of a weight as it lies, or sums [kFewRows][padded H]
};

}  // namespace
}  // namespace fastcells
