// The forward step of any cell, element by element, on host and device. Torch-free.
//
// Each struct is one stage: operator()(b, u) handles unit u of row b. The CPU runs them in a loop
// (recurrent/cpu/step_kernels.cpp), CUDA a thread an element (recurrent/cuda/step.cuh): the same
// code on both.
#pragma once
#include "recurrent/cells/cells.h"
#include "recurrent/stepwise/step_args.h"

namespace fastcells {

template <class X>
FC_HD X* at(void* base, std::int64_t index) {
  return static_cast<X*>(base) + index;
}
template <class X>
FC_HD const X* at(const void* base, std::int64_t index) {
  return static_cast<const X*>(base) + index;
}

// Reads gate k of unit u from a row of gates, its bias added.
template <class A, int kGates>
FC_HD void load_gates(const void* gates, const void* bias, std::int64_t b, std::int64_t u,
                      std::int64_t H, A (&out)[kGates]) {
  FC_UNROLL
  for (int k = 0; k < kGates; ++k) {
    out[k] = *at<A>(gates, (b * kGates + k) * H + u);
    if (bias) out[k] += *at<A>(bias, k * H + u);
  }
}

// Rounds h to storage, stores it, and carries it on unless a reset stands before the next step.
template <class Types>
FC_HD void store_h(const StepForwardArgs& a, std::int64_t b, std::int64_t p, typename Types::A h) {
  using A = typename Types::A;
  using M = typename Types::M;
  using T = typename Types::T;
  const T rounded = static_cast<T>(h);
  *at<T>(a.output, b * a.output_stride + p) = rounded;
  const A carried = a.rows.cut_after(a.t, b) ? A(0) : static_cast<A>(rounded);
  *at<M>(a.carry_h, b * a.P + p) = static_cast<M>(carried);
}

template <class Types>
struct StartStep {  // over max(P, H) units
  StepForwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    using M = typename Types::M;
    using T = typename Types::T;
    const bool cut = a.rows.cut_initial(b);
    if (u < a.P) {
      const A h = a.h_0 && !cut ? static_cast<A>(*at<T>(a.h_0, b * a.P + u)) : A(0);
      *at<M>(a.carry_h, b * a.P + u) = static_cast<M>(h);
    }
    for (std::int64_t j = u; u < a.H && j < a.C; j += a.H) {
      const A c = a.c_0 && !cut ? static_cast<A>(*at<T>(a.c_0, b * a.C + j)) : A(0);
      *at<A>(a.carry_c, b * a.C + j) = c;
    }
  }
};

template <class Cell, class Types>
struct ResetForwardStep {  // over H units
  StepForwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    using M = typename Types::M;
    A x[Cell::kGates], g[Cell::kGates];
    load_gates(a.x_gates, a.bias_ih, b, u, a.H, x);
    load_gates(a.h_gates, a.bias_hh, b, u, a.H, g);
    const A h = static_cast<A>(*at<M>(a.carry_h, b * a.H + u));
    *at<M>(a.operand, b * a.H + u) = static_cast<M>(Cell::reset_h(x, g, h));
  }
};

template <class Cell, class Types>
struct ForwardStep {  // over H units
  using A = typename Types::A;
  using M = typename Types::M;
  using T = typename Types::T;
  StepForwardArgs a;

  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    if (!a.rows.exists(a.t, b)) return store_absent(b, u);
    A x[Cell::kGates], g[Cell::kGates], state[Cell::kStates], saved[Cell::kSaved];
    load_gates(a.x_gates, a.bias_ih, b, u, a.H, x);
    load_gates(a.h_gates, a.bias_hh, b, u, a.H, g);
    state[0] = a.is_projected ? A(0) : static_cast<A>(*at<M>(a.carry_h, b * a.H + u));
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) state[k] = *carry_c(b, k, u);
    Cell::forward(x, g, state, saved);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      *carry_c(b, k, u) = a.rows.cut_after(a.t, b) ? A(0) : state[k];
      if (a.cells) *at<A>(a.cells, b * a.cells_stride + (k - 1) * a.H + u) = state[k];
    }
    if (a.saved) {
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) save(b, k, u, saved[k]);
      if (a.is_projected) save(b, Cell::kSaved, u, state[0]);
    }
    if (a.is_projected) {
      *at<M>(a.operand, b * a.H + u) = static_cast<M>(state[0]);
    } else {
      store_h<Types>(a, b, u, state[0]);
    }
  }

 private:
  FC_HD A* carry_c(std::int64_t b, int k, std::int64_t u) const {
    return at<A>(a.carry_c, (b * (Cell::kStates - 1) + k - 1) * a.H + u);
  }
  FC_HD void save(std::int64_t b, int k, std::int64_t u, A value) const {
    *at<T>(a.saved, b * a.saved_stride + k * a.H + u) = static_cast<T>(value);
  }
  // Past the row's end: the state stays as it is, all that is stored is zero.
  FC_HD void store_absent(std::int64_t b, std::int64_t u) const {
    for (int k = 1; a.cells && k < Cell::kStates; ++k) {
      *at<A>(a.cells, b * a.cells_stride + (k - 1) * a.H + u) = A(0);
    }
    if (a.saved) {
      for (int k = 0; k < Cell::kSaved + (a.is_projected ? 1 : 0); ++k) save(b, k, u, A(0));
    }
    if (a.is_projected) {
      *at<M>(a.operand, b * a.H + u) = static_cast<M>(A(0));
    } else {
      *at<T>(a.output, b * a.output_stride + u) = static_cast<T>(A(0));
    }
  }
};

template <class Types>
struct ProjectForwardStep {  // over P units
  StepForwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t p) const {
    using A = typename Types::A;
    using T = typename Types::T;
    if (a.rows.exists(a.t, b)) {
      store_h<Types>(a, b, p, *at<A>(a.projected, b * a.P + p));
    } else {
      *at<T>(a.output, b * a.output_stride + p) = static_cast<T>(A(0));
    }
  }
};

}  // namespace fastcells
