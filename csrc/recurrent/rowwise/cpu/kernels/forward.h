// One direction of a layer through time, where a cell needs its whole row: a thread's rows and
// units.
//
//   for each chunk of steps:  x_gates = input W_ih^T                own columns, all its frames
//     for each step:          h_gates = h W_hh^T                    own columns        barrier
//                             the row's moments; the cell           own units
//                             (where c is normalised: barrier; its moments; h)
//                             zoneout; store                                           barrier
//
// A second product stands before the cell (r h, of own units, barrier, W_hn (r h)) or behind it (m,
// barrier, h' = W_hr m, own units of h').
//
// The first barrier is needed because a normalisation reads its whole row, and because columns are
// dealt out by panels and units by gates. With a thread a group of rows there are none.
#pragma once
#include "recurrent/rowwise/cpu/kernels/forward_rows.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class RowwiseForward : ForwardRows<T, P> {
  using Base = ForwardRows<T, P>;
  using S = typename P::S;
  using V = typename Base::V;
  static constexpr int L = Base::L, G = Cell::kGates, kStates = Cell::kStates;
  static constexpr bool kTwo = Cell::kTwoProducts;
  static constexpr int kFirstGates = kTwo ? G - 1 : G;  // of the first product with h
  using Base::a_, Base::place_, Base::group_, Base::steps_, Base::end_, Base::frame_;
  using Base::carry, Base::carry_of_h, Base::carry_c, Base::x_gates, Base::x_moments;
  using Base::h_gates, Base::new_c, Base::output_gate, Base::multiply_operand;
  using Base::own_, Base::own_of_h_, Base::units_, Base::units_of_h_, Base::kept_h_, Base::kept_c_;
  using Base::store_h, Base::store_c;
  using typename Base::Kept;

 public:
  static std::size_t scratch_bytes(const rowwise::ForwardArgs& a) {
    return RowwiseForward(a, nullptr).arena_.used;
  }

  RowwiseForward(const rowwise::ForwardArgs& a, const cpu::Place& place)
      : RowwiseForward(a, place.scratch) {
    this->take(place);
  }

  void run() {
    this->start();
    wait(place_->group_barrier);
    for (int64_t i = 0; i < a_.T; ++i) {
      if (i == end_) this->begin_chunk(i);
      const int64_t t = steps_.step(i), n = group_->active[t];
      run_step(t, n);
      frame_ += n;
    }
  }

 private:
  RowwiseForward(const rowwise::ForwardArgs& a, void* scratch)
      : Base(a, {G, kFirstGates, kStates - 1}, scratch), gates_{Base::norms_} {}

  bool is_projected() const { return MayProject<Cell> && a_.row.second == Second::kProjection; }

  // ---- one step ----

  void run_step(int64_t t, int64_t n) {
    this->multiply_h(n);
    wait(place_->group_barrier);
    if constexpr (kTwo) {
      in_stages(n, place_->group_barrier, [&](int64_t r) { run_reset(r); });
      multiply_operand(own_, n);
    }
    const auto cells = [&](int64_t r) { run_cells(t, r); };
    if (HasOutputGate<Cell> && a_.row.norm_c) {
      in_stages(n, place_->group_barrier, cells, [&](int64_t r) { run_output(t, r); });
    } else if (is_projected()) {
      in_stages(n, place_->group_barrier, cells);
      multiply_operand(own_of_h_, n);
      in_stages(n, place_->group_barrier, [&](int64_t r) {
        for (int64_t u = units_of_h_.first; u < at_most(units_of_h_.last, a_.P); u += L) {
          store_h(t, r, u, nullptr, load(carry_of_h(a_.product, r) + u));
        }
      });
    } else {
      in_stages(n, place_->group_barrier, cells);
    }
    for (int64_t r = n; r < group_->rows; ++r) this->clear_absent(t, group_->order[r]);
  }

  // r h of own units.
  void run_reset(int64_t r) const {
    if constexpr (kTwo) {
      for (int64_t u = units_.first; u < at_most(units_.last, a_.H); u += L) {
        V x[G], g[G];
        for (int k = 0; k < G; ++k) {
          x[k] = load_lanes<V>(x_gates(frame_ + r) + k * a_.H + u, a_.H - u);
          g[k] = k < kFirstGates ? load_lanes<V>(h_gates(r) + k * a_.H + u, a_.H - u) : V(S(0));
        }
        const V h = load(carry_of_h(a_.carry_h, r) + u);
        store(carry(a_.operand, r) + u, rounded_to<T>(Cell::reset_h(x, g, h)));
      }
    }
  }
  // The cell on own units of a row, up to the new states.
  void run_cells(int64_t t, int64_t r) {
    const S* const x_row = x_gates(frame_ + r);
    const S* const h_row = h_gates(r);
    RowMoments<S> moments;
    if (a_.row.norm == Norm::kParts) {
      moments.of[0] = {x_moments(frame_ + r)[0], x_moments(frame_ + r)[1]};
    }
    gates_.find_moments([&](int64_t j) { return load(x_row + j); },
                        [&](int64_t j) { return load(h_row + j); }, moments);
    const Kept kept = this->kept_row(t, r);
    for (int64_t u = units_.first; u < at_most(units_.last, a_.H); u += L) {
      V x[G], g[G], state[kStates], saved[Cell::kSaved];
      const auto raw_x = [&](int64_t j, int64_t n) { return load_lanes<V>(x_row + j, n); };
      const auto raw_h = [&](int64_t j, int64_t n) {
        const bool is_second = kTwo && j >= kFirstGates * a_.H;
        return load_lanes<V>(is_second ? carry(a_.product, r) + j - kFirstGates * a_.H : h_row + j,
                             n);
      };
      gates_.load(raw_x, raw_h, moments, u, x, g);
      load_states(r, u, state);
      gates_.run(x, g, u, state, saved);
      if (a_.saved) save(t, group_->order[r], x_row, h_row, u, saved);
      if constexpr (HasOutputGate<Cell>) {
        if (a_.row.norm_c) {
          store(new_c(r) + u, state[1]);
          store(output_gate(r) + u, saved[Cell::kOutputGate]);
          continue;
        }
      }
      if constexpr (MayProject<Cell>) {
        if (is_projected()) {
          const V m = rounded_to<T>(state[0]);
          store(carry(a_.operand, r) + u, m);
          if (a_.saved) {
            T* const to = this->template saved_row<T>(t, group_->order[r]) + Cell::kSaved * a_.H;
            store_lanes(to + u, m, a_.H - u);
          }
          store_c(t, r, u, nullptr, 1, state[1]);
          continue;
        }
      }
      store_states(t, r, u, kept, state);
    }
  }
  // h of own units, of a row whose c is normalised.
  void run_output(int64_t t, int64_t r) {
    if constexpr (HasOutputGate<Cell>) {
      const S* const c = new_c(r);
      const auto of = moments_of<V>(a_.H, [&](int64_t j) { return load(c + j); });
      const Kept kept = this->kept_row(t, r);
      for (int64_t u = units_.first; u < at_most(units_.last, a_.H); u += L) {
        const int64_t n = a_.H - u;
        V inner = (load(c + u) - V(of.mean)) * V(of.scale) * gates_.at(a_.row.norm_c, u, n);
        if (a_.row.norm_c_bias) inner = inner + gates_.at(a_.row.norm_c_bias, u, n);
        const V state[2] = {Cell::output(load(output_gate(r) + u), inner),
                            a_.row.carries_norm ? inner : load(c + u)};
        store_states(t, r, u, kept, state);
      }
    }
  }

  FC_INLINE void load_states(int64_t r, int64_t u, V (&state)[kStates]) const {
    state[0] = is_projected() ? V(S(0)) : load(carry(a_.carry_h, r) + u);
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) state[k] = load(carry_c(r, k) + u);
  }
  // Where W x or W h is normalised both are saved as they come, or their sum; else what the cell
  // saves.
  FC_INLINE void save(int64_t t, int64_t b, const S* x_row, const S* h_row, int64_t u,
                      const V (&saved)[Cell::kSaved]) const {
    const int64_t n = a_.H - u;
    if (a_.row.norm == Norm::kNone) {
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) {
        store_lanes(this->template saved_row<T>(t, b) + k * a_.H + u, saved[k], n);
      }
      return;
    }
    const bool is_sum = a_.row.norm == Norm::kGates;
    S* const to = this->template saved_row<S>(t, b);
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const int64_t j = k * a_.H + u;
      const V h = load_lanes<V>(h_row + j, n);
      store_lanes(to + (is_sum ? 0 : G * a_.H) + j, is_sum ? load_lanes<V>(x_row + j, n) + h : h,
                  n);
    }
  }

  FC_INLINE void store_states(int64_t t, int64_t r, int64_t u, const Kept& kept,
                              const V (&state)[kStates]) const {
    store_h(t, r, u, kept.h, state[0]);
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) store_c(t, r, u, kept.c, k, state[k]);
  }

  const RowGates<Cell, S> gates_;
};

}  // namespace
}  // namespace fastcells
