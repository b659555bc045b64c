// A cell's walk back through the steps of a chunk, the gradients of its state in registers.
#pragma once
#include "recurrent/elementwise/cpu/kernels/cell_lanes.h"

namespace fastcells {
namespace {

template <class Cell, class T, class S>
class BackwardLanes : CellLanes<Cell, T, S> {
  using Base = CellLanes<Cell, T, S>;
  using Base::a_, Base::rows_, Base::L, Base::G, Base::R;
  using Base::kStates, Base::kSaved, Base::kUnits;
  using typename Base::V, typename Base::Lane, typename Base::Span;
  static constexpr int kSlots = Cell::kUnitWeights + 1;

 public:
  explicit BackwardLanes(const elementwise::BackwardArgs& a) : Base(a), args_(a) {}

  // One lane through its steps of the chunk; its gates where they are computed again.
  __attribute__((noinline)) void run(Span span, const Lane& lane, int64_t block) const {
    const int64_t b = lane.b, u = lane.u;
    const S* const gates = static_cast<const S*>(lane.gates);
    V units[kUnits], d_state[kStates], sums[kSlots];
    this->load_units(u, units);
    const V scale = this->load_skip_scale(u);
    d_state[0] = load(dh_at(b) + u);
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) d_state[k] = load(dc_at(b, k) + u);
    for (V& sum : sums) sum = V(S(0));
    for (int64_t i = span.last; i-- > span.first;) {
      const int64_t frame = i - span.first;
      run_cell(i, b, u, span.frame + frame, gates ? gates + frame * R * L : nullptr, units, scale,
               d_state, sums);
    }
    store(dh_at(b) + u, d_state[0]);
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) store(dc_at(b, k) + u, d_state[k]);
    if (Cell::kUnitWeights == 0 && !Cell::kReadsInput) return;
    S* const to = static_cast<S*>(args_.d_unit_weights) + block * kSlots * a_.padded_H + u;
    FC_UNROLL
    for (int k = 0; k < kSlots; ++k) {
      store(to + k * a_.padded_H, load(to + k * a_.padded_H) + sums[k]);
    }
  }

 private:
  S* dh_at(int64_t b) const { return this->carry(args_.carry_dh, b); }
  S* dc_at(int64_t b, int k) const { return this->carry(args_.carry_dc, b, k); }

  // The states that entered a step: where they begin; nullptr for zeros.
  struct Entering {
    const T* h;
    const S* c;          // of a step before, the planes of several states one behind the other
    const T* initial_c;  // in the place of c at the first step
  };
  FC_INLINE Entering entering(int64_t t, int64_t b) const {
    if (rows_.is_first(t, b)) {
      if (rows_.cut_initial(b)) return {};
      return {row_of<T>(a_.h_0, b, a_.H), nullptr, row_of<T>(a_.c_0, b, (kStates - 1) * a_.H)};
    }
    const int64_t previous = rows_.previous(t), row = previous * a_.B + b;
    if (rows_.cut_after(previous, b)) return {};
    return {row_of<T>(args_.output, row, a_.output_stride),
            row_of<S>(args_.cells, row, a_.cells_stride), nullptr};
  }
  template <class X>
  static FC_INLINE const X* row_of(const void* base, int64_t row, int64_t stride) {
    return base ? static_cast<const X*>(base) + row * stride : nullptr;
  }
  // Of h, or of state k, which is in plane k - 1 of its row.
  template <class X>
  FC_INLINE V units_of(const X* row, int64_t u, int k = 1) const {
    return row ? load_lanes<V>(row + (k - 1) * a_.H + u, a_.H - u) : V(S(0));
  }

  FC_INLINE void run_cell(int64_t i, int64_t b, int64_t u, int64_t f, const S* gates,
                          const V (&units)[kUnits], V scale, V (&d_state)[kStates],
                          V (&sums)[kSlots]) const {
    const int64_t t = this->step(i), row = t * a_.B + b;
    V saved[kSaved], prev[kStates], next[kStates], dx[G], du[kUnits];
    V raw(S(0)), unscaled(S(0)), d_raw(S(0));
    if (rows_.cut_after(t, b)) {
      for (V& x : d_state) x = V(S(0));
    }
    d_state[0] = d_state[0] + units_of(row_of<T>(args_.d_output, row, a_.output_stride), u);
    const Entering from = entering(t, b);
    prev[0] = units_of(from.h, u), next[0] = V(S(0));
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) {
      d_state[k] = d_state[k] + units_of(row_of<S>(args_.d_cells, row, a_.cells_stride), u, k);
      prev[k] = from.initial_c ? units_of(from.initial_c, u, k) : units_of(from.c, u, k);
      next[k] = units_of(row_of<S>(args_.cells, row, a_.cells_stride), u, k);
    }
    if constexpr (Cell::kReadsInput) {
      unscaled = this->load_raw(i, b, u);
      raw = scale * unscaled;
    }
    if (gates) {
      V x[G], state[kStates];
      FC_UNROLL
      for (int k = 0; k < G; ++k) x[k] = load(gates + k * L);
      FC_UNROLL
      for (int k = 0; k < kStates; ++k) state[k] = prev[k];
      Cell::forward(x, units, raw, state, saved);
      // As it was stored: what follows from a rounded h may lie on the other side of a kink.
      if constexpr (Cell::kSavesNewH) {
        saved[0] = units_of(row_of<T>(args_.output, row, a_.output_stride), u);
      }
    } else {
      const T* const kept = row_of<T>(args_.saved, row, a_.saved_stride);
      FC_UNROLL
      for (int k = 0; k < kSaved; ++k) saved[k] = units_of(kept + k * a_.H, u);
    }
    Cell::backward(saved, units, raw, prev, next, d_state, dx, du, d_raw);
    S* const to = static_cast<S*>(args_.dx_gates) + f * G * a_.H + u;
    FC_UNROLL
    for (int k = 0; k < G; ++k) store_lanes(to + k * a_.H, dx[k], a_.H - u);
    FC_UNROLL
    for (int k = 0; k < Cell::kUnitWeights; ++k) sums[k] = sums[k] + du[k];
    if constexpr (Cell::kReadsInput) {
      sums[kSlots - 1] = sums[kSlots - 1] + d_raw * unscaled;
      store_lanes(static_cast<S*>(args_.d_raw) + f * a_.I + a_.raw_column + u, d_raw * scale,
                  a_.H - u);
    }
  }

  const elementwise::BackwardArgs& args_;
};

}  // namespace
}  // namespace fastcells
