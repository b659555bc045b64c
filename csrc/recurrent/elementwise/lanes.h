// One lane of an elementwise cell, a unit of a row, through all its steps: on host and device,
// where a thread is a lane (elementwise/cuda). Torch-free.
//
// The state stays in registers, in the arithmetic type. Gates of the next steps are loaded before
// they are needed (kAhead): a step takes less time than a load. Neighbouring lanes read and write
// neighbouring addresses. Pointers are of one direction; T is storage, A arithmetic, M operands.
#pragma once
#include "recurrent/cells/dispatch.h"
#include "rows.h"

namespace fastcells {

struct LaneArgs {
  Rows rows;
  std::int64_t H, I;
  std::int64_t raw_column;   // where the columns of the input begin that are read as they are
  const void* input;         // T [T, B, I]
  const void* h_0;           // T [B, H] or nullptr: zeros
  const void* c_0;           // T [B, N*H] or nullptr: zeros; N states beside h
  const void* unit_weights;  // T [V*H] or nullptr: a cell without
  const void* skip_scale;    // T [H] or nullptr: 1
  std::int64_t output_stride, cells_stride, saved_stride;
};

struct LaneForwardArgs : LaneArgs {
  const void* x_gates;  // A [T, B, G*H] without bias
  const void* bias;     // T [G*H] or nullptr
  void* output;         // T [T, B, H]: 0 where a step does not exist
  void* h_n;            // T [B, H]
  void* c_n;            // T [B, N*H] or nullptr
  void* cells;          // A [T, B, N*H] or nullptr: not wanted
  void* saved;          // T [T, B, S*H] or nullptr: no way back
};

struct LaneBackwardArgs : LaneArgs {
  const void* output;    // T [T, B, H]: the forward pass's
  const void* cells;     // A [T, B, N*H] or nullptr: a cell without c
  const void* saved;     // T [T, B, S*H]
  const void* d_output;  // T [T, B, H] or nullptr: zero
  const void* d_cells;   // A [T, B, N*H] or nullptr: zero
  const void* d_h_n;     // T [B, H] or nullptr: zero
  const void* d_c_n;     // T [B, N*H] or nullptr: zero
  void* dx_gates;        // M [T, B, G*H] out: 0 where a step does not exist
  void* d_raw;           // A [T, B, H] out, of a cell that reads the input; likewise
  void* d_units;         // A [V + 1, B, H] out: of the unit weights and of skip_scale, of each row
  void* d_h_0;           // A [B, H] out
  void* d_c_0;           // A [B, N*H] out or nullptr
};

template <class X>
FC_HD const X& lane_at(const void* base, std::int64_t index) {
  return static_cast<const X*>(base)[index];
}
template <class X, class A>
FC_HD void put_lane(void* base, std::int64_t index, A value) {
  static_cast<X*>(base)[index] = static_cast<X>(value);
}

// What both ways share.
template <class Cell, class Types>
struct Lane {
  using A = typename Types::A;
  using T = typename Types::T;
  static constexpr int G = Cell::kGates, S = Cell::kSaved, V = kUnitSlots<Cell>;
  static constexpr int N = Cell::kStates - 1;  // states beside h

  FC_HD static void load_units(const LaneArgs& a, std::int64_t u, A (&units)[V]) {
    FC_UNROLL
    for (int k = 0; k < V; ++k) {
      units[k] = Cell::kUnitWeights == 0
                     ? A(0)
                     : prepared<Cell>(static_cast<A>(lane_at<T>(a.unit_weights, k * a.H + u)));
    }
  }
  FC_HD static A load_scale(const LaneArgs& a, std::int64_t u) {
    return a.skip_scale ? static_cast<A>(lane_at<T>(a.skip_scale, u)) : A(1);
  }
  FC_HD static A load_raw(const LaneArgs& a, std::int64_t row, std::int64_t u) {
    if constexpr (!Cell::kReadsInput) return A(0);
    return static_cast<A>(lane_at<T>(a.input, row * a.I + a.raw_column + u));
  }
  FC_HD static A initial(const LaneArgs& a, const void* states, std::int64_t b, std::int64_t u) {
    return states ? static_cast<A>(lane_at<T>(states, b * a.H + u)) : A(0);
  }
  // Of state k > 0 that stands beside h in row b: its row among those of one state.
  FC_HD static std::int64_t beside(std::int64_t b, int k) { return b * N + k - 1; }
  // h's, of state 0, and those beside it.
  FC_HD static void load_initial(const LaneArgs& a, const void* h, const void* c, std::int64_t b,
                                 std::int64_t u, A (&state)[Cell::kStates]) {
    state[0] = initial(a, h, b, u);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) state[k] = initial(a, c, beside(b, k), u);
  }
};

template <class Cell, class Types>
struct ForwardLane : Lane<Cell, Types> {
  using Base = Lane<Cell, Types>;
  using Base::G, Base::S, Base::V;
  using typename Base::A, typename Base::T;
  static constexpr int kAhead = sizeof(A) == 8 ? 1 : 4;  // float64 is for tests
  LaneForwardArgs a;

  FC_HD explicit ForwardLane(const LaneForwardArgs& args) : a(args) {}

  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    const std::int64_t length = a.rows.length(b);
    A units[V], state[Cell::kStates], bias[G], x[kAhead][G], raw[kAhead];
    Base::load_units(a, u, units);
    const A scale = Base::load_scale(a, u);
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      bias[k] = a.bias ? static_cast<A>(lane_at<T>(a.bias, k * a.H + u)) : A(0);
    }
    const bool cut = a.rows.cut_initial(b);
    Base::load_initial(a, cut ? nullptr : a.h_0, cut ? nullptr : a.c_0, b, u, state);
    FC_UNROLL
    for (int j = 0; j < kAhead; ++j) load(j, length, b, u, x[j], raw[j]);
    for (std::int64_t i = 0; i < length; i += kAhead) {
      FC_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        if (i + j >= length) break;
        A gates[G];
        const A own = raw[j] * scale;
        FC_UNROLL
        for (int k = 0; k < G; ++k) gates[k] = x[j][k] + bias[k];
        load(i + j + kAhead, length, b, u, x[j], raw[j]);
        step(time(i + j, length), b, u, gates, units, own, state);
      }
    }
    finish(length, b, u, state);
  }

 private:
  FC_HD std::int64_t time(std::int64_t i, std::int64_t length) const {
    return a.rows.reverse ? length - 1 - i : i;
  }
  FC_HD void load(std::int64_t i, std::int64_t length, std::int64_t b, std::int64_t u, A (&x)[G],
                  A& raw) const {
    if (i >= length) return;
    const std::int64_t row = time(i, length) * a.rows.B + b;
    FC_UNROLL
    for (int k = 0; k < G; ++k) x[k] = lane_at<A>(a.x_gates, (row * G + k) * a.H + u);
    raw = Base::load_raw(a, row, u);
  }
  FC_HD void step(std::int64_t t, std::int64_t b, std::int64_t u, const A (&x)[G],
                  const A (&units)[V], A raw, A (&state)[Cell::kStates]) const {
    const std::int64_t row = t * a.rows.B + b;
    A saved[S];
    Cell::forward(x, units, raw, state, saved);
    put_lane<T>(a.output, row * a.output_stride + u, state[0]);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      if (a.cells) put_lane<A>(a.cells, row * a.cells_stride + (k - 1) * a.H + u, state[k]);
    }
    if (a.saved) {
      FC_UNROLL
      for (int k = 0; k < S; ++k) {
        put_lane<T>(a.saved, row * a.saved_stride + k * a.H + u, saved[k]);
      }
    }
    if (a.rows.cut_after(t, b)) {
      FC_UNROLL
      for (int k = 0; k < Cell::kStates; ++k) state[k] = A(0);
    }
  }
  // The final states, and zeros where the row has no step.
  FC_HD void finish(std::int64_t length, std::int64_t b, std::int64_t u,
                    const A (&state)[Cell::kStates]) const {
    put_lane<T>(a.h_n, b * a.H + u, state[0]);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      put_lane<T>(a.c_n, Base::beside(b, k) * a.H + u, state[k]);
    }
    for (std::int64_t t = length; t < a.rows.T; ++t) {
      const std::int64_t row = t * a.rows.B + b;
      put_lane<T>(a.output, row * a.output_stride + u, A(0));
      for (int k = 0; a.cells && k < Base::N; ++k) {
        put_lane<A>(a.cells, row * a.cells_stride + k * a.H + u, A(0));
      }
      for (int k = 0; a.saved && k < S; ++k) {
        put_lane<T>(a.saved, row * a.saved_stride + k * a.H + u, A(0));
      }
    }
  }
};

template <class Cell, class Types>
struct BackwardLane : Lane<Cell, Types> {
  using Base = Lane<Cell, Types>;
  using typename Base::A, typename Base::T;
  using M = typename Types::M;
  using Base::G, Base::S, Base::V;
  LaneBackwardArgs a;

  FC_HD explicit BackwardLane(const LaneBackwardArgs& args) : a(args) {}

  FC_HD void operator()(std::int64_t b, std::int64_t u) const {
    const std::int64_t length = a.rows.length(b);
    A units[V], d_state[Cell::kStates], sums[V + 1];
    Base::load_units(a, u, units);
    const A scale = Base::load_scale(a, u);
    Base::load_initial(a, a.d_h_n, a.d_c_n, b, u, d_state);
    for (A& sum : sums) sum = A(0);
    for (std::int64_t i = length; i-- > 0;) {
      step(a.rows.reverse ? length - 1 - i : i, b, u, units, scale, d_state, sums);
    }
    const bool cut = a.rows.cut_initial(b);
    put_lane<A>(a.d_h_0, b * a.H + u, cut ? A(0) : d_state[0]);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      put_lane<A>(a.d_c_0, Base::beside(b, k) * a.H + u, cut ? A(0) : d_state[k]);
    }
    put_sums(b, u, sums);
    for (std::int64_t t = length; t < a.rows.T; ++t) {
      const std::int64_t row = t * a.rows.B + b;
      for (int k = 0; k < G; ++k) put_lane<M>(a.dx_gates, (row * G + k) * a.H + u, A(0));
      if (Cell::kReadsInput) put_lane<A>(a.d_raw, row * a.H + u, A(0));
    }
  }

 private:
  FC_HD void put_sums(std::int64_t b, std::int64_t u, const A (&sums)[V + 1]) const {
    const std::int64_t size = a.rows.B * a.H, lane = b * a.H + u;
    FC_UNROLL
    for (int k = 0; k < Cell::kUnitWeights; ++k) {
      const A weight = static_cast<A>(lane_at<T>(a.unit_weights, k * a.H + u));
      put_lane<A>(a.d_units, k * size + lane, prepared_grad<Cell>(weight, sums[k]));
    }
    if (Cell::kReadsInput) put_lane<A>(a.d_units, Cell::kUnitWeights * size + lane, sums[V]);
  }
  // The states that entered a step.
  FC_HD void load_previous(std::int64_t t, std::int64_t b, std::int64_t u,
                           A (&prev)[Cell::kStates]) const {
    FC_UNROLL
    for (int k = 0; k < Cell::kStates; ++k) prev[k] = A(0);
    if (a.rows.is_first(t, b)) {
      if (!a.rows.cut_initial(b)) Base::load_initial(a, a.h_0, a.c_0, b, u, prev);
      return;
    }
    const std::int64_t before = a.rows.previous(t), row = before * a.rows.B + b;
    if (a.rows.cut_after(before, b)) return;
    prev[0] = static_cast<A>(lane_at<T>(a.output, row * a.output_stride + u));
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      prev[k] = lane_at<A>(a.cells, row * a.cells_stride + (k - 1) * a.H + u);
    }
  }
  FC_HD void step(std::int64_t t, std::int64_t b, std::int64_t u, const A (&units)[V], A scale,
                  A (&d_state)[Cell::kStates], A (&sums)[V + 1]) const {
    const std::int64_t row = t * a.rows.B + b;
    A saved[S], prev[Cell::kStates], next[Cell::kStates], dx[G], du[V], d_raw = A(0);
    if (a.rows.cut_after(t, b)) {
      FC_UNROLL
      for (int k = 0; k < Cell::kStates; ++k) d_state[k] = A(0);
    }
    if (a.d_output) {
      d_state[0] += static_cast<A>(lane_at<T>(a.d_output, row * a.output_stride + u));
    }
    load_previous(t, b, u, prev);
    next[0] = A(0);
    FC_UNROLL
    for (int k = 1; k < Cell::kStates; ++k) {
      const std::int64_t i = row * a.cells_stride + (k - 1) * a.H + u;
      if (a.d_cells) d_state[k] += lane_at<A>(a.d_cells, i);
      next[k] = lane_at<A>(a.cells, i);
    }
    FC_UNROLL
    for (int k = 0; k < S; ++k) {
      saved[k] = static_cast<A>(lane_at<T>(a.saved, row * a.saved_stride + k * a.H + u));
    }
    const A raw = Base::load_raw(a, row, u);
    Cell::backward(saved, units, raw * scale, prev, next, d_state, dx, du, d_raw);
    FC_UNROLL
    for (int k = 0; k < G; ++k) put_lane<M>(a.dx_gates, (row * G + k) * a.H + u, dx[k]);
    FC_UNROLL
    for (int k = 0; k < Cell::kUnitWeights; ++k) sums[k] += du[k];
    if constexpr (Cell::kReadsInput) {
      sums[V] += d_raw * raw;
      put_lane<A>(a.d_raw, row * a.H + u, d_raw * scale);
    }
  }
};

}  // namespace fastcells
