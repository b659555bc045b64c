// The backward step of any cell, element by element, on host and device. Torch-free.
//
// Steps are visited last first. A row's gradient of h is carry_dh + product_dh: the part that the
// cell handed on, and the product dg W_hh of the step visited last, which lands one stage later.
// Nothing is read where a reset cuts, so that a NaN there stays on its side.
#pragma once
#include "recurrent/stepwise/step_forward.h"

namespace fastcells {

// Gradient of h after step t from the steps that followed, cuts ignored.
template <class A>
FC_HD A arriving_dh(const StepBackwardArgs& a, std::int64_t b, std::int64_t p) {
  const A carried = *at<A>(a.carry_dh, b * a.P + p);
  return a.product_dh ? carried + *at<A>(a.product_dh, b * a.P + p) : carried;
}

// The state that entered step t of row b, from the states of all steps ([T, B] rows of `stride`).
template <class A, class Stored, class Initial>
FC_HD A entering_state(const Rows& rows, std::int64_t t, std::int64_t b, std::int64_t u,
                       const void* all, std::int64_t stride, const void* initial,
                       std::int64_t width) {
  if (rows.is_first(t, b)) {
    if (!initial || rows.cut_initial(b)) return A(0);
    return static_cast<A>(*at<Initial>(initial, b * width + u));
  }
  const std::int64_t previous = rows.previous(t);
  if (rows.cut_after(previous, b)) return A(0);
  return static_cast<A>(*at<Stored>(all, (previous * rows.B + b) * stride + u));
}

template <class Types>
struct PreviousStep {  // over T*B rows of P units
  StepBackwardArgs a;
  FC_HD void operator()(std::int64_t row, std::int64_t p) const {
    using A = typename Types::A;
    using M = typename Types::M;
    using T = typename Types::T;
    const std::int64_t t = row / a.rows.B, b = row % a.rows.B;
    const A h = a.rows.exists(t, b) ? entering_state<A, T, T>(a.rows, t, b, p, a.output_all,
                                                              a.output_all_stride, a.h_0, a.P)
                                    : A(0);
    *at<M>(a.h_previous, row * a.P + p) = static_cast<M>(h);
  }
};

template <class Types>
struct ProjectBackwardStep {  // over P units
  StepBackwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t p) const {
    using A = typename Types::A;
    using M = typename Types::M;
    using T = typename Types::T;
    A* const carry = at<A>(a.carry_dh, b * a.P + p);
    A dh = A(0);
    if (a.rows.exists(a.t, b)) {
      if (!a.rows.cut_after(a.t, b)) dh = arriving_dh<A>(a, b, p);
      if (a.d_output) dh += static_cast<A>(*at<T>(a.d_output, b * a.d_output_stride + p));
      *carry = A(0);
    } else {
      *carry = arriving_dh<A>(a, b, p);
    }
    *at<M>(a.dh_projected, b * a.P + p) = static_cast<M>(dh);
  }
};

template <class Cell, class Types>
struct BackwardStep {  // over H units
  using A = typename Types::A;
  using M = typename Types::M;
  using T = typename Types::T;
  StepBackwardArgs a;

  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    A d_state[Cell::kStates], dx[Cell::kGates], dg[Cell::kGates];
    if (a.rows.exists(a.t, b)) {
      load_d_state(b, u, d_state);
      A saved[Cell::kSaved], prev[Cell::kStates], next[Cell::kStates];
      load_saved(b, u, saved);
      load_states(b, u, prev, next);
      Cell::backward(saved, prev, next, d_state, dx, dg);
      if (!a.dh_cell) *at<A>(a.carry_dh, b * a.P + u) = d_state[0];
      FC_UNROLL
      for (int k = 1; k < Cell::kStates; ++k) *carry_dc(b, k, u) = d_state[k];
    } else {
      for (int k = 0; k < Cell::kGates; ++k) dx[k] = dg[k] = A(0);
      if (!a.dh_cell) *at<A>(a.carry_dh, b * a.P + u) = arriving_dh<A>(a, b, u);
    }
    store_gates(a.dx_gates, b, u, dx);
    if (!Cell::kAdditive) store_gates(a.dg_gates, b, u, dg);
  }

 private:
  FC_HD A* carry_dc(std::int64_t b, int k, std::int64_t u) const {
    return at<A>(a.carry_dc, (b * (Cell::kStates - 1) + k - 1) * a.H + u);
  }
  FC_HD void load_d_state(std::int64_t b, std::int64_t u, A (&d_state)[Cell::kStates]) const {
    const bool cut = a.rows.cut_after(a.t, b);
    if (a.dh_cell) {
      d_state[0] = *at<A>(a.dh_cell, b * a.H + u);
    } else {
      d_state[0] = cut ? A(0) : arriving_dh<A>(a, b, u);
      if (a.d_output) d_state[0] += static_cast<A>(*at<T>(a.d_output, b * a.d_output_stride + u));
    }
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      d_state[k] = cut ? A(0) : *carry_dc(b, k, u);
      if (a.d_cells) d_state[k] += *at<A>(a.d_cells, b * a.d_cells_stride + (k - 1) * a.H + u);
    }
  }
  FC_HD void load_saved(std::int64_t b, std::int64_t u, A (&saved)[Cell::kSaved]) const {
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] = static_cast<A>(*at<T>(a.saved, b * a.saved_stride + k * a.H + u));
    }
  }
  // h of a projected cell is not this unit's, and no such cell reads it: zero.
  FC_HD void load_states(std::int64_t b, std::int64_t u, A (&prev)[Cell::kStates],
                         A (&next)[Cell::kStates]) const {
    prev[0] = a.dh_cell ? A(0) : static_cast<A>(*at<M>(a.h_previous, b * a.P + u));
    next[0] = A(0);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      const std::int64_t j = (k - 1) * a.H + u;
      prev[k] =
          entering_state<A, A, T>(a.rows, a.t, b, j, a.cells_all, a.cells_all_stride, a.c_0, a.C);
      next[k] = *at<A>(a.cells_all, (a.t * a.rows.B + b) * a.cells_all_stride + j);
    }
  }
  FC_HD void store_gates(void* gates, std::int64_t b, std::int64_t u,
                         const A (&values)[Cell::kGates]) const {
    FC_UNROLL
    for (int k = 0; k < Cell::kGates; ++k) {
      *at<M>(gates, (b * Cell::kGates + k) * a.H + u) = static_cast<M>(values[k]);
    }
  }
};

template <class Cell, class Types>
struct ResetBackwardStep {  // over H units, after BackwardStep of the same t
  StepBackwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    using M = typename Types::M;
    using T = typename Types::T;
    M* const reset_h = at<M>(a.reset_h, b * a.H + u);
    *reset_h = static_cast<M>(A(0));
    if (!a.rows.exists(a.t, b)) return;
    A saved[Cell::kSaved];
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] = static_cast<A>(*at<T>(a.saved, b * a.saved_stride + k * a.H + u));
    }
    A* const carry = at<A>(a.carry_dh, b * a.P + u);
    const A h = static_cast<A>(*at<M>(a.h_previous, b * a.P + u));
    A d_state[Cell::kStates] = {*carry};
    const A dr = Cell::backward_reset(saved, h, *at<A>(a.d_reset_h, b * a.H + u), d_state);
    *carry = d_state[0];
    *at<M>(a.dx_gates, b * Cell::kGates * a.H + u) = static_cast<M>(dr);
    *reset_h = static_cast<M>(saved[0] * h);
  }
};

template <class Types>
struct FinishStep {  // over max(P, H) units
  StepBackwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    const bool cut = a.rows.cut_initial(b);
    if (u < a.P) *at<A>(a.d_h_0, b * a.P + u) = cut ? A(0) : arriving_dh<A>(a, b, u);
    for (std::int64_t j = u; u < a.H && j < a.C; j += a.H) {
      *at<A>(a.d_c_0, b * a.C + j) = cut ? A(0) : *at<A>(a.carry_dc, b * a.C + j);
    }
  }
};

}  // namespace fastcells
