// What the way back of a row-wise layer reads of the products W x and W h before anything is done
// to them, kept or computed again, and what it gives to the gains: no cell is known here.
#pragma once
#include "recurrent/rowwise/cpu/kernels/gates.h"

namespace fastcells {
namespace {

template <class T, class P>
class RawGates : protected ChunkProducts<T, P> {
  using Base = ChunkProducts<T, P>;
  using S = typename P::S;
  using V = Vector<S>;
  static constexpr int L = V::kLanes, C = Base::C;

 protected:
  using Base::arena_, Base::place_, Base::M_;
  using Base::frames_, Base::frame_step_, Base::frame_row_, Base::input_row, Base::entering;

  RawGates(const rowwise::BackwardArgs& a, int gates, void* scratch)
      : Base(a, gates, scratch),
        args_(a),
        norms_(norms_of<S>(a.row, a.bias_ih, a.bias_hh, a.H, gates)) {
    if (a.saved) return;
    const int64_t block = at_most(a.chunk_frames, kBlockFrames);
    operands_ = arena_.template take<const S*>(block);
    converted_ = arena_.template take<S>(block * (a.I > a.padded_H ? a.I : a.padded_H));
  }

  // Whether the products are there: the cell saves nothing of its own then.
  bool has_raw() const { return !args_.saved || args_.row.norm != Norm::kNone; }
  FC_INLINE V raw_x(int64_t f, int64_t j, int64_t n) const {
    return args_.saved ? load_lanes<V>(saved_row(f) + j, n) : load_lanes<V>(again(f, 0) + j, n);
  }
  // Where the sum is kept it stands in the place of W x.
  FC_INLINE V raw_h(int64_t f, int64_t j, int64_t n) const {
    if (!args_.saved) return load_lanes<V>(again(f, 1) + j, n);
    return args_.row.norm == Norm::kGates ? V(S(0)) : load_lanes<V>(saved_row(f) + M_ + j, n);
  }
  RowMoments<S>* moments(int64_t f) const { return static_cast<RowMoments<S>*>(args_.moments) + f; }

  // The products of the chunk's frames, and their moments.
  void begin_chunk() {
    if (!args_.saved) compute_again(), wait(place_->team_barrier);
    if (args_.row.norm == Norm::kNone) return;
    const Range own = share_of(frames_, place_->team_rank, place_->team_threads);
    for (int64_t f = own.first; f < own.last; ++f) {
      const auto x = [&](int64_t j) { return raw_x(f, j, M_ - j); };
      const auto h = [&](int64_t j) { return raw_h(f, j, M_ - j); };
      if (args_.row.norm == Norm::kParts) moments(f)->of[0] = norms_.moments_of_x(x);
      norms_.find_moments(x, h, *moments(f));
    }
    wait(place_->team_barrier);
  }

  // d_gain (+)= the sum over frames of d * normalised, own columns.
  void add_gains(const S* dx, const S* dg, Range own, bool is_first) const {
    if (args_.d_norm_ih) {
      const auto x = [this](int64_t f, int64_t j, int64_t n) { return raw_x(f, j, n); };
      add_gain(dx, own, is_first, 0, x, static_cast<S*>(args_.d_norm_ih));
    }
    if (args_.d_norm_hh) {
      const auto h = [this](int64_t f, int64_t j, int64_t n) { return value_of_h(f, j, n); };
      add_gain(dg, own, is_first, 1, h, static_cast<S*>(args_.d_norm_hh));
    }
  }
  // Through the normalisation of W x, if it has one, in place.
  void pass_norm_of_x(int64_t f, S* row) const {
    if (!args_.row.norm_ih) return;
    const auto d = [&](int64_t j) {
      return load_lanes<V>(row + j, M_ - j) * norms_.at(args_.row.norm_ih, j, M_ - j);
    };
    const auto x = [&](int64_t j) { return raw_x(f, j, M_ - j); };
    const NormBackward<V, decltype(d), decltype(x)> norm(M_, d, x, moments(f)->of[0]);
    for (int64_t j = 0; j < M_; j += L) store_lanes(row + j, norm(j), M_ - j);
  }
  // Through the normalisation of W h, or of the sum of each gate: own units of all gates.
  void pass_norm_of_h(int64_t f, Range units, const S* from, S* to) const {
    const int64_t width = norm_width(), H = args_.H;
    if (!args_.row.norm_hh) return copy_gates(units, from, to);
    for (int64_t first = 0; first < M_; first += width) {
      const auto d = [&](int64_t j) {
        const int64_t n = width - j;
        return load_lanes<V>(from + first + j, n) * norms_.at(args_.row.norm_hh, first + j, n);
      };
      const auto h = [&](int64_t j) { return value_of_h(f, first + j, width - j); };
      const NormBackward<V, decltype(d), decltype(h)> norm(width, d, h, moments_of_h(f, first));
      for (int64_t k = 0; k < width; k += H) {
        for (int64_t u = units.first; u < at_most(units.last, H); u += L) {
          store_lanes(to + first + k + u, norm(k + u), H - u);
        }
      }
    }
  }

  // Of packed rows of h those that entered the product.
  void drop_operand(Range frames) const {
    if (!args_.row.dropped) return;
    for (int64_t f = frames.first; f < frames.last; ++f) {
      const S* const factors =
          static_cast<const S*>(args_.row.dropped) + frame_row_[f] * args_.padded_H;
      for (int64_t u = 0; u < args_.H; u += L) {
        S* const to = static_cast<S*>(args_.plain_h) + (u / C * args_.chunk_frames + f) * C + u % C;
        store(to, load(to) * load(factors + u));
      }
    }
  }

 private:
  // Own units of all gates of a row.
  void copy_gates(Range units, const S* from, S* to) const {
    for (int64_t first = 0; first < M_; first += args_.H) {
      for (int64_t u = units.first; u < at_most(units.last, args_.H); u += L) {
        const int64_t n = args_.H - u;
        store_lanes(to + first + u, load_lanes<V>(from + first + u, n), n);
      }
    }
  }
  const S* saved_row(int64_t f) const {
    return static_cast<const S*>(args_.saved) +
           (frame_step_[f] * args_.B + frame_row_[f]) * args_.saved_stride;
  }
  S* again(int64_t f, int part) const {
    return static_cast<S*>(args_.raw_again) + (2 * f + part) * args_.row.padded_gates;
  }
  FC_INLINE V value_of_h(int64_t f, int64_t j, int64_t n) const {
    return args_.row.norm == Norm::kGates ? raw_x(f, j, n) + raw_h(f, j, n) : raw_h(f, j, n);
  }
  // Values that one mean is of.
  int64_t norm_width() const { return args_.row.norm == Norm::kGates ? args_.H : M_; }
  // Where RowMoments has those of W h, or of a gate's sum.
  int64_t norm_place(int64_t gate) const { return args_.row.norm == Norm::kGates ? gate : 1; }
  Moments<S> moments_of_h(int64_t f, int64_t column) const {
    return moments(f)->of[norm_place(column / args_.H)];
  }
  template <class Value>
  void add_gain(const S* d, Range own, bool is_first, int part, const Value& value, S* to) const {
    const int64_t width = part == 0 ? M_ : norm_width();
    for (Range piece = own; piece.first < own.last; piece.first = piece.last) {
      const int64_t gate = piece.first / width;
      piece.last = at_most(own.last, (gate + 1) * width);
      const auto gradient = [&](int64_t f, int64_t m, int64_t n) {
        const Moments<S> of = moments(f)->of[part == 0 ? 0 : norm_place(gate)];
        const V normalised = (value(f, m, n) - V(of.mean)) * V(of.scale);
        return load_lanes<V>(d + f * M_ + m, n) * normalised;
      };
      add_over_frames<V>(piece, frames_, is_first, gradient, to);
    }
  }

  // W x and W h of all frames, own columns. Each thread makes its own copy of the operands.
  void compute_again() {
    const Range columns = share_of(divide_up(M_, C), place_->team_rank, place_->team_threads);
    const bool has_bias = args_.row.norm == Norm::kNone;
    for (int64_t f0 = 0; f0 < frames_; f0 += kBlockFrames) {
      const int64_t count = at_most(kBlockFrames, frames_ - f0);
      for (int64_t i = 0; i < count; ++i) {
        operands_[i] = as_arithmetic(input_row(f0 + i), args_.I, converted_ + i * args_.I);
      }
      multiply_columns<P>(columns, count, operands_, args_.I, args_.panels_ih,
                          has_bias ? args_.bias_ih : nullptr, again(f0, 0),
                          2 * args_.row.padded_gates);
      for (int64_t i = 0; i < count; ++i) {
        S* const to = converted_ + i * args_.padded_H;
        put_entering(f0 + i, to);
        operands_[i] = to;
      }
      multiply_columns<P>(columns, count, operands_, args_.H, args_.panels_hh,
                          has_bias ? args_.bias_hh : nullptr, again(f0, 1),
                          2 * args_.row.padded_gates);
    }
  }
  // The h that entered a frame's product.
  void put_entering(int64_t f, S* to) const {
    const T* const h = entering(frame_step_[f], frame_row_[f]).h;
    const S* const factors = static_cast<const S*>(args_.row.dropped) +
                             (args_.row.dropped ? frame_row_[f] * args_.padded_H : 0);
    for (int64_t u = 0; u < args_.H; u += L) {
      V x = h ? load_lanes<V>(h + u, args_.H - u) : V(S(0));
      if (args_.row.dropped) x = x * load(factors + u);
      store(to + u, x);
    }
  }

 protected:
  const rowwise::BackwardArgs& args_;
  const RowNorms<S> norms_;

 private:
  const S** operands_ = nullptr;  // of a block of frames
  S* converted_ = nullptr;        // [block][max(I, padded H)]
};

}  // namespace
}  // namespace fastcells
