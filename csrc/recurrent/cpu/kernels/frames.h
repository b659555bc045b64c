// The frames of a chunk of steps on the way back, a row at a step where it exists, what stood
// before each of them, and the gradients of the states between steps.
#pragma once
#include "recurrent/cpu/kernels/shape.h"

namespace fastcells {
namespace {

template <class X>
FC_INLINE const X* row_of(const void* base, int64_t row, int64_t stride) {
  return base ? static_cast<const X*>(base) + row * stride : nullptr;
}

template <class T, class S>
class Frames {
 protected:
  using V = Vector<S>;
  static constexpr int L = V::kLanes;

  Frames(const cpu::BackwardArgs& a, void* scratch)
      : a_(a), steps_{a}, arena_{static_cast<char*>(scratch)} {
    frame_step_ = arena_.take<int64_t>(a.chunk_frames);
    frame_row_ = arena_.take<int64_t>(a.chunk_frames);
  }

  int64_t frames_at(int64_t t) const {
    int64_t frames = 0;
    for (int g = 0; g < place_->group_count; ++g) frames += place_->groups[g].active[t];
    return frames;
  }
  int64_t chunk_begin(int64_t end) const {
    int64_t begin = end - 1, frames = frames_at(steps_.step(begin));
    while (begin > 0) {
      frames += frames_at(steps_.step(begin - 1));
      if (frames > a_.chunk_frames) break;
      --begin;
    }
    return begin;
  }
  void list_frames(int64_t begin, int64_t end) {
    frames_ = 0;
    for (int g = 0; g < place_->group_count; ++g) {
      const cpu::RowGroup& group = place_->groups[g];
      if (g == place_->group) group_frame_ = frames_;
      for (int64_t i = end - 1; i >= begin; --i) {
        const int64_t t = steps_.step(i);
        for (int64_t r = 0; r < group.active[t]; ++r) {
          frame_step_[frames_] = t, frame_row_[frames_] = group.order[r], ++frames_;
        }
      }
    }
  }
  const T* input_row(int64_t f) const {
    return row_of<T>(a_.input, frame_step_[f] * a_.B + frame_row_[f], a_.I);
  }
  // The states that entered row b's step t: where they begin; nullptr for zeros.
  struct Entering {
    const T* h;
    const S* c;          // of a step before, the planes of several states one behind the other
    const T* initial_c;  // in the place of c at the first step
  };
  template <int kStates = 2>
  FC_INLINE Entering entering(int64_t t, int64_t b) const {
    if (steps_.is_first(t, b)) {
      if (steps_.cut_initial(b)) return {};
      return {row_of<T>(a_.h_0, b, a_.P), nullptr, row_of<T>(a_.c_0, b, (kStates - 1) * a_.H)};
    }
    const int64_t previous = steps_.previous(t), row = previous * a_.B + b;
    if (steps_.cut_after(previous, b)) return {};
    return {row_of<T>(a_.output, row, a_.output_stride), row_of<S>(a_.cells, row, a_.cells_stride),
            nullptr};
  }
  // Of h, or of state k, which is in plane k - 1 of its row.
  template <class X>
  FC_INLINE V units_of(const X* row, int64_t u, int k = 1) const {
    return row ? load_lanes<V>(row + (k - 1) * a_.H + u, a_.H - u) : V(S(0));
  }
  template <int kStates>
  FC_INLINE void load_entering(const Entering& from, int64_t u, V (&state)[kStates]) const {
    state[0] = units_of(from.h, u);
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) {
      state[k] = from.initial_c ? units_of(from.initial_c, u, k) : units_of(from.c, u, k);
    }
  }

  // ---- gradients of the states, carried from step to step ----

  S* carry(void* carries, int64_t r) const {
    return static_cast<S*>(carries) + (group_->first + r) * a_.padded_H;
  }
  // Of state k > 0.
  template <int kStates>
  S* carry_dc(int64_t r, int k) const {
    const int64_t row = (group_->first + r) * (kStates - 1) + k - 1;
    return static_cast<S*>(a_.carry_dc) + row * a_.padded_H;
  }
  // Units of the carries, whole vectors: the gradients of the final states.
  template <int kStates>
  void start_carries(Range units_of_h, Range units) const {
    start_carry(a_.carry_dh, a_.padded_P, a_.d_h_n, a_.P, 1, units_of_h);
    if (kStates > 1) start_carry(a_.carry_dc, a_.padded_H, a_.d_c_n, a_.H, kStates - 1, units);
  }
  // Rows of `planes` states of `width` units each.
  void start_carry(void* carries, int64_t padded, const void* given, int64_t width, int planes,
                   Range units) const {
    for (int64_t i = 0; i < group_->rows * planes; ++i) {
      const int64_t r = i / planes, k = i % planes;
      S* const to = static_cast<S*>(carries) + (group_->first * planes + i) * padded;
      const T* const from = row_of<T>(given, group_->order[r] * planes + k, width);
      for (int64_t u = units.first; u < units.last; u += L) {
        store(to + u, from && u < width ? load_lanes<V>(from + u, width - u) : V(S(0)));
      }
    }
  }
  // What is left in the carries belongs to the initial states.
  template <int kStates>
  void finish_carries(Range units_of_h, Range units) const {
    finish_carry(a_.carry_dh, a_.padded_P, a_.d_h_0, a_.P, 1, units_of_h);
    if (kStates > 1) finish_carry(a_.carry_dc, a_.padded_H, a_.d_c_0, a_.H, kStates - 1, units);
  }
  void finish_carry(const void* carries, int64_t padded, void* initial, int64_t width, int planes,
                    Range units) const {
    for (int64_t i = 0; initial && i < group_->rows * planes; ++i) {
      const int64_t b = group_->order[i / planes];
      const bool cut = steps_.cut_initial(b);
      const S* const from = static_cast<const S*>(carries) + (group_->first * planes + i) * padded;
      for (int64_t u = units.first; u < at_most(units.last, width); u += L) {
        const V x = cut ? V(S(0)) : load(from + u);
        store_lanes(static_cast<S*>(initial) + (b * planes + i % planes) * width + u, x, width - u);
      }
    }
  }

  const cpu::BackwardArgs& a_;
  const Steps steps_;
  Arena arena_;
  const cpu::Place* place_ = nullptr;
  const cpu::RowGroup* group_ = nullptr;
  int64_t frames_ = 0;                // of the chunk, all groups
  int64_t group_frame_ = 0;           // the first of this group
  int64_t *frame_step_, *frame_row_;  // [chunk frames] t, b
};

}  // namespace
}  // namespace fastcells
