// The way back through a second product of a step: that of a projection, h' = W_hr m, or of the
// last gate, W_hn (r h).
#pragma once
#include "recurrent/rowwise/cpu/kernels/raw.h"

namespace fastcells {
namespace {

template <class T, class P>
class SecondProduct : protected RawGates<T, P> {
  using Base = RawGates<T, P>;
  using S = typename P::S;
  using Sh = Shape<Columns, T, S>;
  using V = Vector<S>;
  static constexpr int L = V::kLanes, C = Sh::kColumns;
  static_assert(!P::kConverts);

 protected:
  using Base::args_, Base::arena_, Base::place_, Base::group_, Base::steps_, Base::M_;
  using Base::frames_, Base::frame_step_, Base::frame_row_, Base::entering, Base::units_of;

  // `saved`: of a unit, what the cell saves.
  SecondProduct(const rowwise::BackwardArgs& a, int gates, int saved, void* scratch)
      : Base(a, gates, scratch), saved_(saved) {
    row_ = arena_.template take<S>(a.padded_H);
  }

  bool has_two() const { return args_.row.second == Second::kLastGate; }
  // Columns of the gates whose product is with h itself.
  int64_t columns_of_h() const { return has_two() ? M_ - args_.H : M_; }

  // out = rows of K columns, a stride apart, times own plain panels of a packed weight, + itself
  // where `add`.
  void multiply_rows(Range panels, int64_t n, const S* first, int64_t stride, int64_t K,
                     const void* packed, bool add, S* out, int64_t out_stride) const {
    for (int64_t i = 0; i < n; ++i) this->rows_[i] = first + i * stride;
    for (int64_t q = panels.first; q < panels.last; ++q) {
      const char* const panel =
          static_cast<const char*>(packed) + q * P::template bytes<Sh::kPlain>(K);
      S* const to = out + q * C;
      P::template multiply<Sh::kPlain>(n, PanelRows<S>{this->rows_}, K, panel, add ? to : nullptr,
                                       out_stride, to, out_stride, nullptr);
    }
  }

  // ---- a step ----

  S* d_operand(int64_t r) const {
    return static_cast<S*>(args_.d_operand) + (group_->first + r) * args_.padded_H;
  }
  S* carry_of_h(int64_t r) const {
    return static_cast<S*>(args_.carry_dh) + (group_->first + r) * args_.padded_P;
  }
  // dh' of own units of a row, as a row of the product.
  void take_dh(int64_t t, int64_t r, int64_t frame, Range units) const {
    const int64_t b = group_->order[r], P_ = args_.P;
    const T* const given = row_of<T>(args_.d_output, t * args_.B + b, args_.output_stride);
    const bool cut = steps_.cut_after(t, b);
    S* const to = static_cast<S*>(args_.d_projected) + (frame + r) * P_;
    for (int64_t u = units.first; u < at_most(units.last, P_); u += L) {
      const V carried = cut ? V(S(0)) : load(carry_of_h(r) + u);
      const V x = given ? load_lanes<V>(given + u, P_ - u) : V(S(0));
      store_lanes(to + u, carried + x, P_ - u);
    }
  }
  // ---- over the frames of a chunk ----

  // Gains and biases, the weights' and the input's gradients.
  void add_up(bool is_first) {
    auto* dx = static_cast<S*>(args_.dx_gates);
    auto* const dg = static_cast<S*>(args_.dg_gates);
    wait(place_->team_barrier);
    this->add_biases(is_first, dx, dg);
    if (args_.row.norm != Norm::kNone) {
      const Range columns = share_of(M_, place_->team_rank, place_->team_threads);
      this->add_gains(dx, dg, columns, is_first);
    }
    if (args_.row.norm == Norm::kParts) {
      wait(place_->team_barrier);
      const Range frames = share_of(frames_, place_->team_rank, place_->team_threads);
      for (int64_t f = frames.first; f < frames.last; ++f) this->pass_norm_of_x(f, dx + f * M_);
    } else if (args_.row.norm == Norm::kGates) {
      dx = static_cast<S*>(args_.dg_raw);
    }
    const auto drop = [this](Range frames) { this->drop_operand(frames); };
    pack_second();
    this->add_products(is_first, dx, static_cast<const S*>(args_.dg_raw), columns_of_h(), drop);
    add_second(is_first);
    wait(place_->team_barrier);
  }

 private:
  // Own frames of the operand, for the weight's gradient.
  void pack_second() const {
    if (args_.row.second == Second::kNone || !d_weight()) return;
    const Range own = share_of(frames_, place_->team_rank, place_->team_threads);
    for (int64_t f = own.first; f < own.last; ++f) {
      list_operand(frame_step_[f], frame_row_[f]);
      for (int64_t q = 0; q * C < args_.H; ++q) {
        S* const to = static_cast<S*>(args_.plain_operand) + (q * args_.chunk_frames + f) * C;
        pack_plain_panel<Sh>(row_, args_.H, q, to);
      }
    }
  }
  void add_second(bool is_first) const {
    if (args_.row.second == Second::kNone || !d_weight()) return;
    const auto* const operand = static_cast<const S*>(args_.plain_operand);
    const Range own = share_of(has_two() ? M_ : args_.P, place_->team_rank, place_->team_threads);
    const Range rows{has_two() ? std::max(own.first, columns_of_h()) : own.first, own.last};
    const void* const d = has_two() ? args_.dg_gates : args_.d_projected;
    add_weight_gradient<Sh, P>(static_cast<const S*>(d), has_two() ? M_ : args_.P, operand,
                               args_.chunk_frames, args_.H, frames_, rows, is_first, d_weight(),
                               this->weights_);
  }
  S* d_weight() const { return static_cast<S*>(has_two() ? args_.d_weight_hh : args_.d_weight_hr); }
  // m of a frame, or r h.
  void list_operand(int64_t t, int64_t b) const {
    const T* const saved = row_of<T>(args_.saved, t * args_.B + b, args_.saved_stride);
    const T* const h = has_two() ? entering(t, b).h : nullptr;
    for (int64_t u = 0; u < args_.H; u += L) {
      const V x = units_of(saved + (has_two() ? 0 : saved_ * args_.H), u);
      store(row_ + u, has_two() ? rounded_to<T>(x * units_of(h, u)) : x);
    }
  }

  const int saved_;
  S* row_;  // [padded H]
};

}  // namespace
}  // namespace fastcells
