// A step of a layer that looks at whole rows, a block a row: from the products to the new states.
#pragma once
#include "recurrent/rowwise/cuda/row.cuh"

namespace fastcells {

template <class Types>
struct RowStart {  // over H units: the states that enter the first step
  RowForwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    using T = typename Types::T;
    const std::int64_t i = b * a.H + u;
    const bool cut = a.rows.cut_initial(b);
    const T h = a.h_0 && !cut ? *at<T>(a.h_0, i) : T(0.0f);
    *at<T>(a.carry_h, i) = h;
    if (a.dropped_h) {
      *at<T>(a.dropped_h, i) = static_cast<T>(drop_factor<A>(a.noise, b, u) * static_cast<A>(h));
    }
    for (std::int64_t j = b * a.C + u; j < (b + 1) * a.C; j += a.H) {
      *at<A>(a.carry_c, j) = a.c_0 && !cut ? static_cast<A>(*at<T>(a.c_0, j)) : A(0);
    }
  }
};

template <class Cell, class Types>
class RowForward {
  using A = typename Types::A;
  using T = typename Types::T;
  static constexpr int G = Cell::kGates, K = Cell::kSaved, N = Cell::kStates;

 public:
  FC_DEVICE RowForward(const RowForwardArgs& a, std::int64_t b)
      : a_(a),
        b_(b),
        frame_(a.t * a.rows.B + b),
        x_(at<A>(a.x_gates, frame_ * G * a.H)),
        h_(at<A>(a.h_gates, b * G * a.H)),
        gates_(a, x_, h_) {}

  FC_DEVICE void run() {
    if (!a_.rows.exists(a_.t, b_)) return clear();
    gates_.find_moments();
    for_own(a_.H, [&](std::int64_t u) { run_cell(u); });
    if constexpr (kHasOutputGate<Cell>) {
      if (a_.norm_c) run_output();
    }
  }

 private:
  // The cell on a unit, up to the new states, or to those that wait for c's moments.
  FC_DEVICE void run_cell(std::int64_t u) const {
    A x[G], g[G], state[N], saved[K];
    gates_.load(u, x, g);
    state[0] = static_cast<A>(*at<T>(a_.carry_h, b_ * a_.H + u));
    FC_UNROLL
    for (int k = 1; k < N; ++k) state[k] = *carry_c(k, u);
    gates_.run(u, x, g, state, saved);
    if (a_.saved) save(u, saved);
    if constexpr (kHasOutputGate<Cell>) {
      if (a_.norm_c) {
        *new_c(0, u) = state[1], *new_c(1, u) = saved[Cell::kOutputGate];
        return;
      }
    }
    store_states(u, state);
  }
  // h of a row whose c is normalised.
  FC_DEVICE void run_output() const {
    RowMoments<1, A> of_c;
    of_c.find(1, a_.H, [&](int, std::int64_t u) { return *new_c(0, u); });
    for_own(a_.H, [&](std::int64_t u) {
      const A c = *new_c(0, u);
      const A inner =
          of_c.normalised(0, c) * gates_.value(a_.norm_c, u) + gates_.shift(a_.norm_c_bias, u);
      const A state[N] = {Cell::output(*new_c(1, u), inner), a_.carries_norm ? inner : c};
      store_states(u, state);
    });
  }

  FC_DEVICE A* carry_c(int k, std::int64_t u) const {
    return at<A>(a_.carry_c, (b_ * (N - 1) + k - 1) * a_.H + u);
  }
  FC_DEVICE A* new_c(int part, std::int64_t u) const {
    return at<A>(a_.new_c, (2 * b_ + part) * a_.H + u);
  }
  FC_DEVICE void save(std::int64_t u, const A (&saved)[K]) const {
    const std::int64_t row = frame_ * a_.saved_stride + u;
    if (!gates_.has_norm()) {
      FC_UNROLL
      for (int k = 0; k < K; ++k) *at<T>(a_.saved, row + k * a_.H) = static_cast<T>(saved[k]);
      return;
    }
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const std::int64_t j = k * a_.H;
      *at<A>(a_.saved, row + j) = a_.norm_ih ? x_[j + u] : gates_.sum(j + u);
      if (a_.norm_ih) *at<A>(a_.saved, row + G * a_.H + j) = h_[j + u];
    }
  }
  FC_DEVICE A blend(NoiseKind kind, std::int64_t u, A old, A state) const {
    const A kept = kept_part<A>(a_.noise, kind, a_.t, b_, u);
    return kept == A(0) ? state : kept * old + (A(1) - kept) * state;
  }
  FC_DEVICE void store_states(std::int64_t u, const A (&state)[N]) const {
    const bool cut = a_.rows.cut_after(a_.t, b_);
    T* const carried = at<T>(a_.carry_h, b_ * a_.H + u);
    const T h = static_cast<T>(blend(NoiseKind::kZoneoutH, u, static_cast<A>(*carried), state[0]));
    *at<T>(a_.output, frame_ * a_.output_stride + u) = h;
    *carried = cut ? T(0.0f) : h;
    if (a_.dropped_h) {
      const A operand = cut ? A(0) : drop_factor<A>(a_.noise, b_, u) * static_cast<A>(h);
      *at<T>(a_.dropped_h, b_ * a_.H + u) = static_cast<T>(operand);
    }
    FC_UNROLL
    for (int k = 1; k < N; ++k) {
      const A c = blend(NoiseKind::kZoneoutC, u, *carry_c(k, u), state[k]);
      if (a_.cells) *at<A>(a_.cells, frame_ * a_.cells_stride + (k - 1) * a_.H + u) = c;
      *carry_c(k, u) = cut ? A(0) : c;
    }
  }
  // Zeros where the row has no step.
  FC_DEVICE void clear() const {
    for_own(a_.H, [&](std::int64_t u) {
      *at<T>(a_.output, frame_ * a_.output_stride + u) = T(0.0f);
      for (int k = 1; a_.cells && k < N; ++k) {
        *at<A>(a_.cells, frame_ * a_.cells_stride + (k - 1) * a_.H + u) = A(0);
      }
    });
    if (!a_.saved) return;
    for_own(a_.saved_stride, [&](std::int64_t j) {
      if (gates_.has_norm()) {
        *at<A>(a_.saved, frame_ * a_.saved_stride + j) = A(0);
      } else {
        *at<T>(a_.saved, frame_ * a_.saved_stride + j) = T(0.0f);
      }
    });
  }

  const RowForwardArgs& a_;
  const std::int64_t b_, frame_;
  const A *x_, *h_;  // [G*H]
  RowGates<Cell, Types> gates_;
};

template <class Cell, class Types>
__global__ void __launch_bounds__(kMostRowThreads, kLeastRowBlocks)
    row_forward_kernel(const __grid_constant__ RowForwardArgs a) {
  RowForward<Cell, Types>(a, blockIdx.x).run();
}

}  // namespace fastcells
