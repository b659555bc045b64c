// What the walks of a cell through time read of a lane, on both ways, and its input products.
#pragma once
#include <type_traits>

#include "cpu/simd/exponentials.h"
#include "recurrent/cells/dispatch.h"
#include "recurrent/cpu/kernels/weights.h"
#include "recurrent/elementwise/cpu/kernels/args.h"

namespace fastcells {
namespace {

template <class Cell, class T, class S_>
class CellLanes {
 protected:
  using S = S_;
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  using Lane = elementwise::Lane;
  using Span = elementwise::Span;
  static constexpr int L = Sh::L, G = Sh::G, R = Sh::R;
  static constexpr int kStates = Cell::kStates, kSaved = Cell::kSaved;
  static constexpr int kUnits = kUnitSlots<Cell>;

  explicit CellLanes(const elementwise::WalkArgs& a)
      : a_(a), rows_{a.lengths, a.resets, a.T, a.B, a.reverse} {}

  int64_t step(int64_t i) const { return a_.reverse ? a_.T - 1 - i : i; }
  FC_INLINE void load_units(int64_t u, V (&units)[kUnits]) const {
    FC_UNROLL
    for (int k = 0; k < kUnits; ++k) {
      units[k] = Cell::kUnitWeights == 0
                     ? V(S(0))
                     : load(static_cast<const S*>(a_.unit_weights) + k * a_.padded_H + u);
    }
  }
  FC_INLINE V load_skip_scale(int64_t u) const {
    return a_.skip_scale ? load(static_cast<const S*>(a_.skip_scale) + u) : V(S(1));
  }
  // The input as it is, at step i of row b, of unit u.
  FC_INLINE V load_raw(int64_t i, int64_t b, int64_t u) const {
    const T* const row = static_cast<const T*>(a_.input) + (step(i) * a_.B + b) * a_.I;
    return load_lanes<V>(row + a_.raw_column + u, a_.H - u);
  }
  S* carry(void* carries, int64_t b) const { return static_cast<S*>(carries) + b * a_.padded_H; }
  // Of state k > 0.
  S* carry(void* carries, int64_t b, int k) const {
    return carry(carries, b * (kStates - 1) + k - 1);
  }

  const elementwise::WalkArgs& a_;
  const Rows rows_;
};

template <int G, class T, class P>
void multiply_gates(const elementwise::WalkArgs& a, int64_t q, int64_t frames,
                    const void* input_rows, void* out, void* panel, void* bias) {
  using S = typename P::S;
  using Sh = Shape<GateCount<G>, T, S>;
  constexpr int R = Sh::R, kColumns = R * Sh::L;
  const PanelRows<S> rows{static_cast<const S* const*>(input_rows)};
  S* const to = static_cast<S*>(out);
  if (a.own_weight) {
    S *const own_panel = static_cast<S*>(panel), *const own_bias = static_cast<S*>(bias);
    gate_panel_steps<Sh>(static_cast<const T*>(a.own_weight), a.H, a.I, q, 0, a.I, own_panel);
    bias_panel<Sh>(static_cast<const T*>(a.own_bias), a.H, q, own_bias);
    WholePanels<S>::template multiply<R>(
        frames, rows, a.I, own_panel, a.own_bias ? own_bias : nullptr, 0, to, kColumns, own_panel);
  } else {
    const auto* const packed = static_cast<const char*>(a.panels) + q * P::template bytes<R>(a.I);
    const auto* const init = a.bias ? static_cast<const S*>(a.bias) + q * kColumns : nullptr;
    P::template multiply<R>(frames, rows, a.I, packed, init, 0, to, kColumns, nullptr);
  }
}

}  // namespace
}  // namespace fastcells
