// What both ways share: a thread's lanes, the frames of a chunk of steps, their input products.
//
// A frame is a row at a step where it exists. Frames of a chunk lie row after row, a row's in the
// order in which they are computed, so that each lane reads its gates from end to end.
#pragma once
#include <type_traits>

#include "cpu/simd/exponentials.h"
#include "recurrent/cells/dispatch.h"
#include "recurrent/cpu/kernels/weights.h"
#include "recurrent/elementwise/cpu/kernels/args.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class Walk {
 protected:
  using S = typename P::S;
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Sh::G, W = Sh::W, R = Sh::R;
  static constexpr int kStates = Cell::kStates, kSaved = Cell::kSaved;
  static constexpr int kUnits = kUnitSlots<Cell>;
  // Panels whose lanes walk together where there are few rows: lanes hide one another's latency.
  static constexpr int kLanesTogether = 4;

  // Scratch for products of at most `frames` frames.
  Walk(const elementwise::WalkArgs& a, int64_t frames, void* scratch)
      : a_(a),
        rows_{a.lengths, a.resets, a.T, a.B, a.reverse},
        arena_{static_cast<char*>(scratch)},
        group_(a.block_rows >= kLanesTogether ? 1 : kLanesTogether),
        frames_(frames) {
    gates_ = arena_.take<S>(group_ * frames * R * L);
    x_rows_ = arena_.take<const S*>(frames);
    if (sizeof(T) != sizeof(S)) x_converted_ = arena_.take<S>(frames * a.I);
    ranges_ = arena_.take<Span>(a.B);
    if (a.own_weight) panel_ = arena_.take<S>(a.I * R * L), bias_ = arena_.take<S>(R * L);
  }

  // The steps of a row in a chunk, in the order of computation, and its first frame.
  struct Span {
    int64_t first, last, frame;
  };

  int64_t step(int64_t i) const { return a_.reverse ? a_.T - 1 - i : i; }
  Range rows_of(int64_t block) const {
    return {block * a_.block_rows, at_most((block + 1) * a_.block_rows, a_.B)};
  }
  void take_share(const elementwise::Share& share) {
    panels_ = share_of(divide_up(a_.H, Sh::kUnits), share.unit_rank, share.unit_threads);
    blocks_ = share_of(divide_up(a_.B, a_.block_rows), share.row_rank, share.row_threads);
  }
  // Lists the spans of some rows in steps begin .. end - 1; returns the number of frames.
  int64_t list_spans(Range rows, int64_t begin, int64_t end) {
    int64_t frames = 0;
    for (int64_t b = rows.first; b < rows.last; ++b) {
      const int64_t length = rows_.length(b);
      int64_t first = begin, last = at_most(end, length);
      if (a_.reverse) first = begin > a_.T - length ? begin : a_.T - length, last = end;
      if (first > last) first = last = begin;
      ranges_[b] = {first, last, frames};
      frames += last - first;
    }
    return frames;
  }
  const T* input_row(int64_t i, int64_t b) const {
    return static_cast<const T*>(a_.input) + (step(i) * a_.B + b) * a_.I;
  }
  // The rows of the input at the spans' frames, as operands.
  void list_inputs(Range rows) {
    int64_t f = 0;
    for (int64_t b = rows.first; b < rows.last; ++b) {
      for (int64_t i = ranges_[b].first; i < ranges_[b].last; ++i, ++f) {
        x_rows_[f] = as_arithmetic(input_row(i, b), a_.I, x_converted_ + f * a_.I);
      }
    }
  }
  // Gates of `count` panels from q on, for frames whose inputs are listed: [count][frames][R*L].
  void multiply(int64_t q, int64_t count, int64_t frames) {
    const PanelRows<S> rows{x_rows_};
    for (int64_t j = 0; j < count; ++j, ++q) {
      S* const out = gates_ + j * frames_ * R * L;
      if (a_.own_weight) {
        gate_panel_steps<Sh>(static_cast<const T*>(a_.own_weight), a_.H, a_.I, q, 0, a_.I, panel_);
        bias_panel<Sh>(static_cast<const T*>(a_.own_bias), a_.H, q, bias_);
        WholePanels<S>::template multiply<R>(frames, rows, a_.I, panel_,
                                             a_.own_bias ? bias_ : nullptr, 0, out, R * L, panel_);
      } else {
        const auto* panel = static_cast<const char*>(a_.panels) + q * P::template bytes<R>(a_.I);
        const auto* bias = a_.bias ? static_cast<const S*>(a_.bias) + q * R * L : nullptr;
        P::template multiply<R>(frames, rows, a_.I, panel, bias, 0, out, R * L, nullptr);
      }
    }
  }
  // Where the gates of unit vector w of panel j begin at a row's first frame; R*L to the next.
  const S* gates_at(int64_t j, int w, int64_t b) const {
    return gates_ + (j * frames_ + ranges_[b].frame) * R * L + w * G * L;
  }
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
  // The input as it is, of unit u; `row` is the input's.
  FC_INLINE V load_raw(const T* row, int64_t u) const {
    return load_lanes<V>(row + a_.raw_column + u, a_.H - u);
  }
  static FC_INLINE V state_of(const void* states, int64_t b, int64_t u, int64_t H) {
    return states ? load_lanes<V>(static_cast<const T*>(states) + b * H + u, H - u) : V(S(0));
  }
  S* carry(void* carries, int64_t b) const { return static_cast<S*>(carries) + b * a_.padded_H; }

  // f(b, u) for the unit vectors of own rows.
  template <class F>
  void for_own_lanes(const F& f) const {
    for (int64_t block = blocks_.first; block < blocks_.last; ++block) {
      for (int64_t b = rows_of(block).first; b < rows_of(block).last; ++b) {
        for (int64_t u = panels_.first * Sh::kUnits; u < at_most(panels_.last * Sh::kUnits, a_.H);
             u += L) {
          f(b, u);
        }
      }
    }
  }

  const elementwise::WalkArgs& a_;
  const Rows rows_;
  Arena arena_;
  const int64_t group_;   // panels of one product
  const int64_t frames_;  // room in `gates_`
  Range panels_{}, blocks_{};
  S* gates_;                              // [group][frames][R*L]
  const S** x_rows_;                      // [frames]
  S* x_converted_ = nullptr;              // [frames][I]
  Span* ranges_;                          // [B]
  S *panel_ = nullptr, *bias_ = nullptr;  // [I][R*L], [R*L]: of weights as they lie
};

}  // namespace
}  // namespace fastcells
