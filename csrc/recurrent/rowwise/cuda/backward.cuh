// A step of a layer that looks at whole rows on its way back, a block a row: from the gradients of
// the new states to those of the products and of the states before.
//
// The product dg W_hh, which follows, lands in the next step visited, times the factors of h in
// front of it. What belongs to a weight of a unit or a column is added to the row's own sum.
#pragma once
#include "recurrent/rowwise/cuda/row.cuh"

namespace fastcells {

// Gradient of h after a step from the steps that followed, cuts ignored.
template <class A>
FC_HD A arriving_row_dh(const RowBackwardArgs& a, std::int64_t b, std::int64_t u) {
  const A carried = *at<A>(a.carry_dh, b * a.H + u);
  if (!a.product_dh) return carried;
  return carried + drop_factor<A>(a.noise, b, u) * *at<A>(a.product_dh, b * a.H + u);
}

template <class Types>
struct RowFinish {  // over H units: gradients of the initial states
  RowBackwardArgs a;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    using A = typename Types::A;
    const std::int64_t i = b * a.H + u;
    const bool cut = a.rows.cut_initial(b);
    *at<A>(a.d_h_0, i) = cut ? A(0) : arriving_row_dh<A>(a, b, u);
    for (std::int64_t j = b * a.C + u; j < (b + 1) * a.C; j += a.H) {
      *at<A>(a.d_c_0, j) = cut ? A(0) : *at<A>(a.carry_dc, j);
    }
  }
};

template <class Cell, class Types>
class RowBackward {
  using A = typename Types::A;
  using T = typename Types::T;
  using Gates = RowGates<Cell, Types>;
  static constexpr int G = Cell::kGates, K = Cell::kSaved, N = Cell::kStates, V = Gates::V;
  static constexpr int kSums = 2 * Gates::kNorms;

 public:
  FC_DEVICE RowBackward(const RowBackwardArgs& a, std::int64_t b)
      : a_(a),
        b_(b),
        frame_(a.t * a.rows.B + b),
        gates_(a, at<A>(a.saved, frame_ * a.saved_stride),
               a.norm_ih ? at<A>(a.saved, frame_ * a.saved_stride + G * a.H) : nullptr) {}

  FC_DEVICE void run() {
    if (!a_.rows.exists(a_.t, b_)) return pass_by();
    gates_.find_moments();
    A sums[kSums] = {};  // of each normalisation: d and d x^, d times the gain
    bool is_done = false;
    if constexpr (kHasOutputGate<Cell>) {
      if (a_.norm_c) {
        run_through_c(sums);
        is_done = true;
      }
    }
    if (!is_done) for_own(a_.H, [&](std::int64_t u) { run_cell(u, sums); });
    if (gates_.has_norm()) {
      block_sums(sums);
      FC_UNROLL
      for (int k = 0; k < kSums; ++k) sums[k] /= gates_.norm_width();
    }
    for_own(a_.H, [&](std::int64_t u) { put_operands(u, sums); });
  }

 private:
  // ---- what enters ----

  FC_DEVICE A entering_h(std::int64_t u) const {
    return entering_state<A, T, T>(a_.rows, a_.t, b_, u, a_.output, a_.output_stride, a_.h_0, a_.H);
  }
  FC_DEVICE void load_entering(std::int64_t u, A (&prev)[N]) const {
    prev[0] = entering_h(u);
    FC_UNROLL
    for (int k = 1; k < N; ++k) {
      prev[k] = entering_state<A, A, T>(a_.rows, a_.t, b_, (k - 1) * a_.H + u, a_.cells,
                                        a_.cells_stride, a_.c_0, a_.C);
    }
  }
  // What the cell saved, kept or computed again.
  FC_DEVICE void load_saved(std::int64_t u, const A (&prev)[N], A (&saved)[K]) const {
    if (!gates_.has_norm()) {
      FC_UNROLL
      for (int k = 0; k < K; ++k) {
        saved[k] = gates_.value(a_.saved, frame_ * a_.saved_stride + k * a_.H + u);
      }
      return;
    }
    A x[G], g[G], state[N];
    FC_UNROLL
    for (int k = 0; k < N; ++k) state[k] = prev[k];
    gates_.load(u, x, g);
    gates_.run(u, x, g, state, saved);
  }
  // The gradient of a new state, and that of what zoneout kept of the old one.
  FC_DEVICE A split(NoiseKind kind, std::int64_t u, A all, A& of_old) const {
    const A kept = kept_part<A>(a_.noise, kind, a_.t, b_, u);
    of_old = kept == A(0) ? A(0) : kept * all;
    return kept == A(0) ? all : (A(1) - kept) * all;
  }
  FC_DEVICE A new_dh(std::int64_t u, A& of_old) const {
    A all = a_.rows.cut_after(a_.t, b_) ? A(0) : arriving_row_dh<A>(a_, b_, u);
    if (a_.d_output) all += gates_.value(a_.d_output, frame_ * a_.output_stride + u);
    return split(NoiseKind::kZoneoutH, u, all, of_old);
  }
  FC_DEVICE A new_dc(std::int64_t u, A& of_old, int k = 1) const {
    A all = a_.rows.cut_after(a_.t, b_) ? A(0) : *carry_dc(u, k);
    if (a_.d_cells) all += *at<A>(a_.d_cells, frame_ * a_.cells_stride + (k - 1) * a_.H + u);
    return split(NoiseKind::kZoneoutC, u, all, of_old);
  }
  FC_DEVICE A* carry_dh(std::int64_t u) const { return at<A>(a_.carry_dh, b_ * a_.H + u); }
  FC_DEVICE A* carry_dc(std::int64_t u, int k = 1) const {
    return at<A>(a_.carry_dc, b_ * a_.C + (k - 1) * a_.H + u);
  }

  // ---- the cell ----

  FC_DEVICE void run_cell(std::int64_t u, A (&sums)[kSums]) const {
    A prev[N], next[N], saved[K], d_state[N], of_old[N], dx[G], dg[G];
    load_entering(u, prev);
    load_saved(u, prev, saved);
    next[0] = A(0);
    d_state[0] = new_dh(u, of_old[0]);
    FC_UNROLL
    for (int k = 1; k < N; ++k) {
      // A cell that cannot give c' again, or does not compute it anew, has no zoneout of it.
      if constexpr (requires { Cell::new_c(saved, prev[1]); }) {
        next[k] = Cell::new_c(saved, prev[1]);
      } else {
        next[k] = *at<A>(a_.cells, frame_ * a_.cells_stride + (k - 1) * a_.H + u);
      }
      d_state[k] = new_dc(u, of_old[k], k);
    }
    if constexpr (V > 0) {
      A units[V], d_units[V];
      gates_.load_units(u, units);
      Cell::backward(saved, units, prev, next, d_state, dx, dg, d_units);
      FC_UNROLL
      for (int k = 0; k < V; ++k) add(a_.d_units, V * a_.H, k * a_.H + u, d_units[k]);
    } else {
      Cell::backward(saved, prev, next, d_state, dx, dg);
    }
    *carry_dh(u) = d_state[0] + of_old[0];
    FC_UNROLL
    for (int k = 1; k < N; ++k) *carry_dc(u, k) = d_state[k] + of_old[k];
    put_gates(u, dx, dg, sums);
  }

  // ---- a normalised c ----

  enum CRow : int { kNewC, kOfNormalised, kOfGate };
  FC_DEVICE A& c_row(CRow k, std::int64_t u) const {
    return *at<A>(a_.c_rows, (3 * b_ + k) * a_.H + u);
  }
  FC_DEVICE void run_through_c(A (&sums)[kSums]) const {
    for_own(a_.H, [&](std::int64_t u) {
      A prev[N], saved[K];
      load_entering(u, prev);
      load_saved(u, prev, saved);
      c_row(kNewC, u) = Cell::new_c(saved, prev[1]);
      c_row(kOfGate, u) = saved[Cell::kOutputGate];
    });
    RowMoments<1, A> of_c;
    of_c.find(1, a_.H, [&](int, std::int64_t u) { return c_row(kNewC, u); });
    A means[2] = {};
    for_own(a_.H, [&](std::int64_t u) { pass_output(u, of_c, means); });
    block_sums(means);
    means[0] /= A(a_.H), means[1] /= A(a_.H);
    for_own(a_.H, [&](std::int64_t u) { pass_c(u, of_c, means, sums); });
  }
  // From h to the normalised c and to the gate beside it, whose gradient takes the gate's place.
  FC_DEVICE void pass_output(std::int64_t u, const RowMoments<1, A>& of_c, A (&sums)[2]) const {
    const A normalised = of_c.normalised(0, c_row(kNewC, u));
    const A gain = gates_.value(a_.norm_c, u);
    const A inner = normalised * gain + gates_.shift(a_.norm_c_bias, u);
    A of_old, d_gate;
    A d = Cell::output_backward(c_row(kOfGate, u), inner, new_dh(u, of_old), d_gate);
    *carry_dh(u) = of_old;
    if (a_.carries_norm) d += new_dc(u, of_old);
    add(a_.d_norm_c, 2 * a_.H, u, d * normalised);
    add(a_.d_norm_c, 2 * a_.H, a_.H + u, d);
    c_row(kOfNormalised, u) = d * gain, c_row(kOfGate, u) = d_gate;
    sums[0] += d * gain, sums[1] += d * gain * normalised;
  }
  FC_DEVICE void pass_c(std::int64_t u, const RowMoments<1, A>& of_c, const A (&means)[2],
                        A (&sums)[kSums]) const {
    A prev[N], saved[K], dx[G], of_old, d_previous;
    load_entering(u, prev);
    load_saved(u, prev, saved);
    const A carried = new_dc(u, of_old);
    A dc = of_c.back(0, c_row(kOfNormalised, u), c_row(kNewC, u), means);
    if (!a_.carries_norm) dc += carried;
    dx[Cell::kOutputGate] = c_row(kOfGate, u);
    Cell::c_backward(saved, prev[1], dc, d_previous, dx);
    *carry_dc(u) = d_previous + of_old;
    put_gates(u, dx, dx, sums);
  }

  // ---- the gates ----

  FC_DEVICE A& gate_row(int part, std::int64_t j) const {
    return *at<A>(a_.gate_rows, (2 * b_ + part) * G * a_.H + j);
  }
  // Adds to element j of the row's own `width` sums.
  FC_DEVICE void add(void* sums, std::int64_t width, std::int64_t j, A value) const {
    if (sums) *at<A>(sums, b_ * width + j) += value;
  }
  // Keeps the gradients of a unit's gates, and adds up what comes of them.
  FC_DEVICE void put_gates(std::int64_t u, const A (&dx)[G], const A (&dg)[G],
                           A (&sums)[kSums]) const {
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const std::int64_t j = k * a_.H + u, M = G * a_.H;
      gate_row(0, j) = dx[k], gate_row(1, j) = dg[k];
      add(a_.d_bias_ih, M, j, dx[k]), add(a_.d_bias_hh, M, j, dg[k]);
      if (a_.norm_ih) {
        const A x = gates_.normalised_x(j), d = dx[k] * gates_.value(a_.norm_ih, j);
        add(a_.d_norm_ih, M, j, dx[k] * x);
        sums[0] += d, sums[1] += d * x;
      }
      if (gates_.has_norm()) {
        const A h = gates_.normalised_h(k, j), d = dg[k] * gates_.gain_of_h(j);
        add(a_.d_norm_hh, M, j, dg[k] * h);
        if (a_.norm_ih) {
          sums[2] += d, sums[3] += d * h;
        } else {
          sums[2 * k] += d, sums[2 * k + 1] += d * h;
        }
      }
    }
  }
  // Through the normalisations, whose sums over the row are there.
  FC_DEVICE void put_operands(std::int64_t u, const A (&means)[kSums]) const {
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const std::int64_t j = k * a_.H + u;
      A dx = gate_row(0, j), dg = gate_row(1, j);
      if (a_.norm_ih) dx = gates_.back_to_x(j, dx * gates_.value(a_.norm_ih, j), means);
      if (gates_.has_norm()) dg = gates_.back_to_h(k, j, dg * gates_.gain_of_h(j), means);
      if (a_.norm_gates) dx = dg;
      put(a_.dx_gates, frame_ * G * a_.H + j, dx);
      if (a_.dg_gates) put(a_.dg_gates, frame_ * G * a_.H + j, dg);
    }
    put(a_.h_previous, frame_ * a_.H + u, drop_factor<A>(a_.noise, b_, u) * entering_h(u));
  }
  FC_DEVICE static void put(void* operand, std::int64_t i, A value) {
    *at<T>(operand, i) = static_cast<T>(value);
  }
  // A step that does not exist: the product before it lands, and its own operands are zero.
  FC_DEVICE void pass_by() const {
    for_own(a_.H, [&](std::int64_t u) {
      *carry_dh(u) = arriving_row_dh<A>(a_, b_, u);
      put(a_.h_previous, frame_ * a_.H + u, A(0));
    });
    for_own(G * a_.H, [&](std::int64_t j) {
      put(a_.dx_gates, frame_ * G * a_.H + j, A(0));
      if (a_.dg_gates) put(a_.dg_gates, frame_ * G * a_.H + j, A(0));
    });
  }

  const RowBackwardArgs& a_;
  const std::int64_t b_, frame_;
  Gates gates_;
};

template <class Cell, class Types>
__global__ void __launch_bounds__(kMostRowThreads, kLeastRowBlocks)
    row_backward_kernel(const __grid_constant__ RowBackwardArgs a) {
  RowBackward<Cell, Types>(a, blockIdx.x).run();
}

}  // namespace fastcells
