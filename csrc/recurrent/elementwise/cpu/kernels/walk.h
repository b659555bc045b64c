// What both ways share: a thread's lanes, the frames of a chunk of steps, their input products.
//
// A frame is a row at a step where it exists. Frames of a chunk lie row after row, a row's in the
// order in which they are computed, so that each lane reads its gates from end to end. Nothing here
// knows the cell: its walk through the steps of a lane is a function of the table (cell_lanes.h).
#pragma once
#include "recurrent/cpu/kernels/weights.h"
#include "recurrent/elementwise/cpu/kernels/args.h"

namespace fastcells {
namespace {

template <class T, class P>
class Walk {
 protected:
  using S = typename P::S;
  using V = Vector<S>;
  using Span = elementwise::Span;
  using Lane = elementwise::Lane;
  static constexpr int L = V::kLanes;
  // Panels whose lanes walk together where there are few rows: lanes hide one another's latency.
  static constexpr int kLanesTogether = 4;

  // Scratch for products of at most `frames` frames.
  Walk(const elementwise::WalkArgs& a, int64_t frames, void* scratch)
      : a_(a),
        cell_(*a.cell),
        rows_{a.lengths, a.resets, a.T, a.B, a.reverse},
        arena_{static_cast<char*>(scratch)},
        group_(a.block_rows >= kLanesTogether ? 1 : kLanesTogether),
        frames_(frames),
        panel_units_(cell_.unit_vectors * L),
        panel_lanes_(cell_.unit_vectors * cell_.gates * L) {
    gates_ = arena_.take<S>(group_ * frames * panel_lanes_);
    x_rows_ = arena_.take<const S*>(frames);
    if (sizeof(T) != sizeof(S)) x_converted_ = arena_.take<S>(frames * a.I);
    ranges_ = arena_.take<Span>(a.B);
    if (a.own_weight) {
      panel_ = arena_.take<S>(a.I * panel_lanes_), bias_ = arena_.take<S>(panel_lanes_);
    }
  }

  // The place of state k + 1 of row b, where the states beside h lie row after row of H units.
  int64_t beside(int64_t b, int k) const { return b * beside_h() + k; }
  int beside_h() const { return cell_.states - 1; }
  int64_t step(int64_t i) const { return a_.reverse ? a_.T - 1 - i : i; }
  Range rows_of(int64_t block) const {
    return {block * a_.block_rows, at_most((block + 1) * a_.block_rows, a_.B)};
  }
  void take_share(const elementwise::Share& share) {
    panels_ = share_of(divide_up(a_.H, panel_units_), share.unit_rank, share.unit_threads);
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
    for (int64_t j = 0; j < count; ++j, ++q) {
      cell_.multiply(a_, q, frames, x_rows_, gates_ + j * frames_ * panel_lanes_, panel_, bias_);
    }
  }
  // Where the gates of unit vector w of panel j begin at a row's first frame; R*L to the next.
  const S* gates_at(int64_t j, int w, int64_t b) const {
    return gates_ + (j * frames_ + ranges_[b].frame) * panel_lanes_ + w * cell_.gates * L;
  }
  // Row i of H units.
  static FC_INLINE V state_of(const void* states, int64_t i, int64_t u, int64_t H) {
    return states ? load_lanes<V>(static_cast<const T*>(states) + i * H + u, H - u) : V(S(0));
  }
  S* carry(void* carries, int64_t i) const { return static_cast<S*>(carries) + i * a_.padded_H; }

  // f(b, u) for the unit vectors of own rows.
  template <class F>
  void for_own_lanes(const F& f) const {
    const Range units{panels_.first * panel_units_, at_most(panels_.last * panel_units_, a_.H)};
    for (int64_t block = blocks_.first; block < blocks_.last; ++block) {
      for (int64_t b = rows_of(block).first; b < rows_of(block).last; ++b) {
        for (int64_t u = units.first; u < units.last; u += L) f(b, u);
      }
    }
  }

  const elementwise::WalkArgs& a_;
  const elementwise::CellWalk& cell_;
  const Rows rows_;
  Arena arena_;
  const int64_t group_;   // panels of one product
  const int64_t frames_;  // room in `gates_`
  const int64_t panel_units_, panel_lanes_;
  Range panels_{}, blocks_{};
  S* gates_;                              // [group][frames][R*L]
  const S** x_rows_;                      // [frames]
  S* x_converted_ = nullptr;              // [frames][I]
  Span* ranges_;                          // [B]
  S *panel_ = nullptr, *bias_ = nullptr;  // [I][R*L], [R*L]: of weights as they lie
};

}  // namespace
}  // namespace fastcells
