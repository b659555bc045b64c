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
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Sh::G, C = Sh::kColumns;
  using Base = GatesAgain<Cell, T, P>;
  using Base::a_, Base::steps_, Base::arena_, Base::place_, Base::group_;
  using Base::add_biases, Base::add_products, Base::compute_gates_again, Base::list_rows,
      Base::multiply;
  using Base::carry, Base::chunk_begin, Base::list_frames;
  using Base::entering, Base::load_entering, Base::units_of;
  using Base::group_frame_, Base::panel_, Base::rows_;
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
    const Range units{own_.first * C, own_.last * C};
    this->template start_carries<Cell::kStates>(units, units);
    bool is_first = !a_.add_to_weights;
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
      const auto dx = static_cast<const S*>(a_.dx_gates), dg = static_cast<const S*>(a_.dg_gates);
      add_products(is_first, dx, dg, Base::M_, [](Range) {});
      add_biases(is_first, dx, dg);
      wait(place_->team_barrier);
      end = begin;
    }
    this->template finish_carries<Cell::kStates>(units, units);
  }

 private:
  Backward(const cpu::BackwardArgs& a, void* scratch) : Base(a, scratch) {}

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

  Range own_{};  // plain panels of units of this thread
};

}  // namespace
}  // namespace fastcells
