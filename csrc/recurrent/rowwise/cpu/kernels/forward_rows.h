// What a row-wise layer's way through time does whatever its cell: the start, the products, what is
// carried on and what is stored.
#pragma once
#include "recurrent/rowwise/cpu/kernels/gates.h"

namespace fastcells {
namespace {

template <class T, class P>
class ForwardRows {
 protected:
  using S = typename P::S;
  using Sh = Shape<Columns, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, C = Sh::kColumns;

  // Of a cell: its gates, those of the first product with h, its states beside h.
  struct Counts {
    int gates, first_gates, planes;
  };

  ForwardRows(const rowwise::ForwardArgs& a, Counts counts, void* scratch)
      : a_(a),
        counts_(counts),
        norms_(norms_of<S>(a.row, a.bias_ih, a.bias_hh, a.H, counts.gates)),
        steps_{a},
        arena_{static_cast<char*>(scratch)} {
    rows_ = arena_.take<const S*>(a.chunk_frames > a.B ? a.chunk_frames : a.B);
    if (sizeof(T) != sizeof(S)) converted_ = arena_.take<S>(a.chunk_frames * a.I);
    kept_h_ = arena_.take<S>(a.padded_H + kMaskBlock);
    kept_c_ = arena_.take<S>(a.padded_H + kMaskBlock);
    frame_step_ = arena_.take<int64_t>(a.chunk_frames);
    frame_row_ = arena_.take<int64_t>(a.chunk_frames);
  }

  // This thread's share.
  void take(const cpu::Place& place) {
    place_ = &place, group_ = &place.groups[place.group];
    const auto share = [&](int64_t n) {
      return share_of(divide_up(n, C), place.rank, place.threads);
    };
    own_ = share(a_.H), own_of_h_ = share(a_.P);
    units_ = {own_.first * C, own_.last * C};
    units_of_h_ = {own_of_h_.first * C, own_of_h_.last * C};
    columns_ = share(counts_.gates * a_.H), columns_of_h_ = share(counts_.first_gates * a_.H);
  }

  // ---- places ----

  S* carry(void* carries, int64_t r) const {
    return static_cast<S*>(carries) + (group_->first + r) * a_.padded_H;
  }
  S* carry_of_h(void* carries, int64_t r) const {
    return static_cast<S*>(carries) + (group_->first + r) * a_.padded_P;
  }
  // Of state k > 0.
  S* carry_c(int64_t r, int k) const {
    const int64_t row = (group_->first + r) * counts_.planes + k - 1;
    return static_cast<S*>(a_.carry_c) + row * a_.padded_H;
  }
  S* x_gates(int64_t f) const {
    const int64_t row = place_->group * a_.chunk_frames + f;
    return static_cast<S*>(a_.x_gates) + row * a_.row.padded_gates;
  }
  S* x_moments(int64_t f) const {
    return static_cast<S*>(a_.x_moments) + 2 * (place_->group * a_.chunk_frames + f);
  }
  S* h_gates(int64_t r) const {
    return static_cast<S*>(a_.h_gates) + (group_->first + r) * a_.row.padded_gates;
  }
  const S* dropped(int64_t r) const {
    return static_cast<const S*>(a_.row.dropped) + group_->order[r] * a_.padded_H;
  }
  // c on its way to h, and the gate that waits for it.
  S* new_c(int64_t r) const { return carry(a_.new_c, r); }
  S* output_gate(int64_t r) const { return carry(a_.new_c, a_.B + r); }
  // X: S where there is a norm, else T.
  template <class X>
  X* saved_row(int64_t t, int64_t b) const {
    return a_.saved ? static_cast<X*>(a_.saved) + (t * a_.B + b) * a_.saved_stride : nullptr;
  }

  // ---- the start ----

  // Own units of the initial states, as carries and as what a row without steps ends with.
  void start() {
    draw_dropped(a_.row, *group_, a_.padded_H, units_, kept_h_);
    for (int64_t r = 0; r < group_->rows; ++r) {
      const int64_t b = group_->order[r];
      const bool cut = steps_.cut_initial(b);
      for (int64_t u = units_of_h_.first; u < units_of_h_.last; u += L) {
        start_state(a_.h_0, a_.h_n, a_.P, b, u, cut, carry_of_h(a_.carry_h, r));
        if (a_.row.dropped) drop(r, u);
      }
      for (int64_t u = units_.first; u < units_.last; u += L) {
        for (int k = 1; k <= counts_.planes; ++k) {
          start_state(a_.c_0, a_.c_n, a_.H, b * counts_.planes + k - 1, u, cut, carry_c(r, k));
        }
      }
    }
  }
  // Row i of `width` units.
  void start_state(const void* initial, void* last, int64_t width, int64_t i, int64_t u, bool cut,
                   S* to) const {
    const int64_t n = width - u, at = i * width + u;
    const V x = initial && n > 0 ? load_lanes<V>(static_cast<const T*>(initial) + at, n) : V(S(0));
    if (n > 0) store_lanes(static_cast<T*>(last) + at, x, n);
    store(to + u, cut ? V(S(0)) : x);
  }
  FC_INLINE void drop(int64_t r, int64_t u) const {
    store(carry(a_.carry_dropped, r) + u, load(carry(a_.carry_h, r) + u) * load(dropped(r) + u));
  }

  // ---- the input's products ----

  // The steps from i on whose frames fit a chunk.
  void begin_chunk(int64_t i) {
    int64_t frames = 0;
    for (end_ = i; end_ < a_.T; ++end_) {
      const int64_t t = steps_.step(end_), n = group_->active[t];
      if (end_ > i && frames + n > a_.chunk_frames) break;
      for (int64_t r = 0; r < n; ++r, ++frames) {
        const int64_t b = group_->order[r];
        const T* const row = static_cast<const T*>(a_.input) + (t * a_.B + b) * a_.I;
        rows_[frames] = as_arithmetic(row, a_.I, converted_ + (converted_ ? frames * a_.I : 0));
        frame_step_[frames] = t, frame_row_[frames] = b;
      }
    }
    frame_ = 0;
    const bool has_bias = a_.row.norm == Norm::kNone;
    multiply_columns<P>(columns_, frames, rows_, a_.I, a_.panels_ih,
                        has_bias ? a_.bias_ih : nullptr, x_gates(0), a_.row.padded_gates);
    if (a_.row.norm == Norm::kParts) {
      wait(place_->group_barrier);
      const Range own = share_of(frames, place_->rank, place_->threads);
      for (int64_t f = own.first; f < own.last; ++f) finish_input(f);
    }
  }
  // Moments of a frame's W x, which the way back wants as it is.
  void finish_input(int64_t f) const {
    const S* const row = x_gates(f);
    const auto of = norms_.moments_of_x([&](int64_t j) { return load(row + j); });
    x_moments(f)[0] = of.mean, x_moments(f)[1] = of.scale;
    S* const to = saved_row<S>(frame_step_[f], frame_row_[f]);
    for (int64_t j = 0; to && j < norms_.M; j += L) {
      store_lanes(to + j, load(row + j), norms_.M - j);
    }
  }

  // ---- a step's products ----

  // Of the h that was carried, own columns.
  void multiply_h(int64_t n) const {
    for (int64_t r = 0; r < n; ++r) {
      rows_[r] = carry_of_h(a_.row.dropped ? a_.carry_dropped : a_.carry_h, r);
    }
    const bool has_bias = a_.row.norm == Norm::kNone;
    multiply_columns<P>(columns_of_h_, n, rows_, a_.P, a_.panels_hh,
                        has_bias ? a_.bias_hh : nullptr, h_gates(0), a_.row.padded_gates);
  }
  // Own columns of the second product, whose operand all threads have written. Columns and units
  // are dealt out alike, so that nobody waits for what comes of it.
  void multiply_operand(Range own, int64_t n) const {
    for (int64_t r = 0; r < n; ++r) rows_[r] = carry(a_.operand, r);
    multiply_columns<P>(own, n, rows_, a_.H, a_.panels_second, a_.bias_second,
                        carry_of_h(a_.product, 0), a_.padded_P);
  }

  // ---- what is stored ----

  // Factors of the old states, or nullptr.
  struct Kept {
    const S *h, *c;
  };
  Kept kept_row(int64_t t, int64_t r) {
    const Noise& noise = a_.row.noise;
    const int64_t b = group_->order[r];
    return {zoneout_row(noise, NoiseKind::kZoneoutH, t, b, units_, kept_h_),
            counts_.planes > 0 ? zoneout_row(noise, NoiseKind::kZoneoutC, t, b, units_, kept_c_)
                               : nullptr};
  }
  FC_INLINE static V blend(const S* kept, int64_t u, V old, V state) {
    if (!kept) return state;
    const V part = load(kept + u);
    return part * old + (V(S(1)) - part) * state;
  }
  FC_INLINE void store_h(int64_t t, int64_t r, int64_t u, const S* kept, V h) const {
    const int64_t b = group_->order[r], row = t * a_.B + b, n = a_.P - u;
    S* const carried = carry_of_h(a_.carry_h, r) + u;
    h = rounded_to<T>(blend(kept, u, load(carried), h));
    store(carried, steps_.cut_after(t, b) ? V(S(0)) : h);
    if (a_.row.dropped) drop(r, u);
    store_lanes(static_cast<T*>(a_.output) + row * a_.output_stride + u, h, n);
    if (steps_.is_last(t, b)) store_lanes(static_cast<T*>(a_.h_n) + b * a_.P + u, h, n);
  }
  FC_INLINE void store_c(int64_t t, int64_t r, int64_t u, const S* kept, int k, V c) const {
    const int64_t b = group_->order[r], row = t * a_.B + b, n = a_.H - u;
    const int64_t plane = (k - 1) * a_.H + u;
    S* const carried = carry_c(r, k) + u;
    c = blend(kept, u, load(carried), c);
    store(carried, steps_.cut_after(t, b) ? V(S(0)) : c);
    if (a_.cells) store_lanes(static_cast<S*>(a_.cells) + row * a_.cells_stride + plane, c, n);
    if (steps_.is_last(t, b)) {
      store_lanes(static_cast<T*>(a_.c_n) + b * counts_.planes * a_.H + plane, c, n);
    }
  }

  // Zeros where a row has no step.
  void clear_absent(int64_t t, int64_t b) const {
    const V zero(S(0));
    const int64_t row = t * a_.B + b;
    for (int64_t u = units_of_h_.first; u < at_most(units_of_h_.last, a_.P); u += L) {
      store_lanes(static_cast<T*>(a_.output) + row * a_.output_stride + u, zero, a_.P - u);
    }
    for (int64_t u = units_.first; u < at_most(units_.last, a_.H); u += L) {
      const int64_t n = a_.H - u;
      for (int k = 0; a_.cells && k < counts_.planes; ++k) {
        store_lanes(static_cast<S*>(a_.cells) + row * a_.cells_stride + k * a_.H + u, zero, n);
      }
      for (int64_t j = u; a_.saved && j < a_.saved_stride; j += a_.H) {
        if (a_.row.norm == Norm::kNone) {
          store_lanes(saved_row<T>(t, b) + j, zero, n);
        } else {
          store_lanes(saved_row<S>(t, b) + j, zero, n);
        }
      }
    }
  }

  const rowwise::ForwardArgs& a_;
  const Counts counts_;
  const RowNorms<S> norms_;
  const Steps steps_;
  Arena arena_;
  const cpu::Place* place_ = nullptr;
  const cpu::RowGroup* group_ = nullptr;
  // Of this thread: panels of units, of those of h; the units; panels of columns of all gates, and
  // of those of the first product with h.
  Range own_{}, own_of_h_{}, units_{}, units_of_h_{}, columns_{}, columns_of_h_{};
  int64_t end_ = 0, frame_ = 0;       // the chunk's end, the frame of the step's first row
  const S** rows_;                    // [max(chunk frames, B)]
  S* converted_ = nullptr;            // [chunk frames][I] of 16-bit storage
  S *kept_h_, *kept_c_;               // [padded H + block]
  int64_t *frame_step_, *frame_row_;  // [chunk frames] t, b
};

}  // namespace
}  // namespace fastcells
