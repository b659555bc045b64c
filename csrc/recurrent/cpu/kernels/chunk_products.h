// Products with all gates' gradients at once, of a step or of the frames of a chunk on the way
// back: what knows no cell.
#pragma once
#include "recurrent/cpu/kernels/frames.h"
#include "recurrent/cpu/kernels/weights.h"

namespace fastcells {
namespace {

template <class T, class P>
class ChunkProducts : protected Frames<T, typename P::S> {
 protected:
  using S = typename P::S;
  using Element = typename P::Row;
  // Of a product over frames; the frames of a pair are one element.
  using FrameElement = std::conditional_t<std::is_same_v<Element, BFloat16Pair>, Element, S>;
  using Sh = Shape<Columns, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, C = Sh::kColumns;
  using Base = Frames<T, S>;
  using Base::a_, Base::arena_, Base::place_, Base::input_row, Base::entering;
  using Base::frames_, Base::frame_step_, Base::frame_row_;

  ChunkProducts(const cpu::BackwardArgs& a, int gates, void* scratch)
      : Base(a, scratch), M_(gates * a.H), weights_(arena_, C) {
    Arena& arena = arena_;
    rows_ = arena.take<const S*>(a.chunk_frames);
    if (P::kConverts) {
      elements_ = arena.take<const Element*>(a.chunk_frames);
      converted_ = arena.take<Element>((a.B > kBlockRows ? a.B : kBlockRows) * P::row_length(M_));
    }
    products_ = arena.take<S>(kBlockRows * C);
    if (a.own_weight_hh) panel_ = arena.take<S>(M_ * C + kFewRows * a.padded_H);
  }

  // Rows of gates one after another, for multiply(); converted for packed panels.
  void list_rows(const S* first, int64_t n, bool is_packed) {
    for (int64_t i = 0; i < n; ++i) {
      rows_[i] = first + i * M_;
      if constexpr (P::kConverts) {
        elements_[i] = converted_ + i * P::row_length(M_);
        if (is_packed)
          P::convert(rows_[i], M_, converted_ + i * P::row_length(M_), nullptr, nullptr);
      }
    }
  }
  const Element* const* elements() const {
    if constexpr (P::kConverts) {
      return elements_;
    } else {
      return rows_;
    }
  }

  // out = rows_ times panel q of a weight [G*H, N], packed or as it lies, + init.
  void multiply(int64_t n, const void* packed, const void* own, int64_t N, int64_t q, const S* init,
                int64_t init_stride, S* out, int64_t out_stride) const {
    if (own) {
      const auto panel = plain_panel<Sh>(static_cast<const T*>(own), M_, N, q, panel_);
      product_of<Sh::kPlain>(n, RowOperand<S>{rows_}, M_, panel, init, init_stride, out, out_stride,
                             panel.first);
    } else {
      const char* const panel =
          static_cast<const char*>(packed) + q * P::template bytes<Sh::kPlain>(M_);
      P::template multiply<Sh::kPlain>(n, PanelRows<Element>{elements()}, M_, panel, init,
                                       init_stride, out, out_stride, nullptr);
    }
  }

  // ---- products over all frames of the chunk ----

  // The weights' and the input's, of dx and dg [frames][M], of which the first `of_h` columns are
  // those of W_hh. `packed(frames)` is told of the rows of h that this thread has packed.
  template <class Packed>
  void add_products(bool is_first, const S* dx, const S* dg, int64_t of_h, const Packed& packed) {
    const auto d_weight_ih = static_cast<S*>(a_.d_weight_ih);
    const auto d_weight_hh = static_cast<S*>(a_.d_weight_hh);
    const auto x_row = [this](int64_t f) { return input_row(f); };
    const auto h_row = [this](int64_t f) { return entering(frame_step_[f], frame_row_[f]).h; };
    const bool is_few = a_.own_weight_hh && frames_ <= kFewRows;
    if (d_weight_ih && !is_few) pack_operand(a_.I, a_.plain_x, x_row);
    if (d_weight_hh && !is_few) packed(pack_operand(a_.P, a_.plain_h, h_row));
    wait(place_->team_barrier);
    if (a_.d_input) add_input_gradient(dx);
    const Range own = share_of(M_, place_->team_rank, place_->team_threads);
    if (is_few) {
      const T *x_rows[kFewRows] = {}, *h_rows[kFewRows] = {};
      for (int64_t f = 0; f < frames_; ++f) x_rows[f] = x_row(f), h_rows[f] = h_row(f);
      if (d_weight_ih) {
        few_frames_gradient<V>(dx, M_, frames_, x_rows, a_.I, own, is_first, d_weight_ih);
      }
      if (d_weight_hh) {
        few_frames_gradient<V>(dg, M_, frames_, h_rows, a_.P, own, is_first, d_weight_hh);
      }
    }
    if (d_weight_ih && !is_few) {
      add_weight_gradient<Sh, P>(dx, M_, static_cast<const FrameElement*>(a_.plain_x),
                                 a_.chunk_frames, a_.I, frames_, own, is_first, d_weight_ih,
                                 weights_);
    }
    if (d_weight_hh && !is_few) {
      const Range rows{own.first, at_most(own.last, of_h)};
      add_weight_gradient<Sh, P>(dg, M_, static_cast<const FrameElement*>(a_.plain_h),
                                 a_.chunk_frames, a_.P, frames_, rows, is_first, d_weight_hh,
                                 weights_);
    }
  }
  void add_biases(bool is_first, const S* dx, const S* dg) const {
    const Range own = share_of(M_, place_->team_rank, place_->team_threads);
    for (const auto& [grad, gates] : {std::pair{a_.d_bias_ih, dx}, {a_.d_bias_hh, dg}}) {
      if (grad) add_bias_gradient<Sh>(gates, M_, frames_, own, is_first, static_cast<S*>(grad));
    }
  }

  // Own frames, or pairs of them; zeros past the last frame.
  template <class Row>
  Range pack_operand(int64_t N, void* panels, Row row) const {
    constexpr int64_t kOf = std::is_same_v<FrameElement, S> ? 1 : 2;
    const Range own = share_of(P::row_length(frames_), place_->team_rank, place_->team_threads);
    const auto row_or_zeros = [&](int64_t f) { return f < frames_ ? row(f) : nullptr; };
    S pieces[2 * C];
    for (int64_t e = own.first; e < own.last; ++e) {
      const T* const from = row_or_zeros(e * kOf);
      const T* const next = kOf == 2 ? row_or_zeros(e * 2 + 1) : nullptr;
      for (int64_t q = 0; q * C < N; ++q) {
        auto* const to =
            static_cast<FrameElement*>(panels) + (q * P::row_length(a_.chunk_frames) + e) * C;
        if constexpr (kOf == 1) {
          pack_plain_panel<Sh>(from, N, q, to);
        } else {
          pack_plain_panel<Sh>(from, N, q, pieces), pack_plain_panel<Sh>(next, N, q, pieces + C);
          for (int64_t j = 0; j < C; j += L) {
            store_pairs(to + j, load(pieces + j), load(pieces + C + j));
          }
        }
      }
    }
    return own;
  }

  // d_input = dx W_ih: own panels of its columns, or own frames where there are few panels.
  void add_input_gradient(const S* dx) {
    const int64_t panels = divide_up(a_.I, C);
    const bool by_panels = panels >= 2 * place_->team_threads;
    const Range all_panels{0, panels}, all_frames{0, frames_};
    const auto share = [this](int64_t count) {
      return share_of(count, place_->team_rank, place_->team_threads);
    };
    const Range qs = by_panels ? share(panels) : all_panels;
    const Range fs = by_panels ? all_frames : share(frames_);
    if (a_.own_weight_ih && frames_ <= kFewRows && !a_.add_to_d_input) return add_few_inputs(dx);
    for (int64_t f0 = fs.first; f0 < fs.last; f0 += kBlockRows) {
      const int64_t count = at_most(kBlockRows, fs.last - f0);
      list_rows(dx + f0 * M_, count, !a_.own_weight_ih);
      for (int64_t q = qs.first; q < qs.last; ++q) {
        multiply(count, a_.plain_ih, a_.own_weight_ih, a_.I, q, nullptr, 0, products_, C);
        for (int64_t i = 0; i < count; ++i) store_input_gradient(f0 + i, q, products_ + i * C);
      }
    }
  }
  // The same for few frames, own columns.
  void add_few_inputs(const S* dx) {
    const int64_t columns = divide_up(a_.I, L);
    const Range own = share_of(columns, place_->team_rank, place_->team_threads);
    const Range units{own.first * L, at_most(own.last * L, a_.I)};
    for (int64_t f = 0; f < frames_; ++f) {
      const S* const gates = dx + f * M_;
      S* const to = static_cast<S*>(a_.d_input) + (frame_step_[f] * a_.B + frame_row_[f]) * a_.I;
      for (int64_t j = units.first; j < units.last; j += L) {
        store_lanes(to + j, V(S(0)), units.last - j);
      }
      add_few_rows<V, 1>(&gates, M_, static_cast<const T*>(a_.own_weight_ih), a_.I, units, to,
                         a_.I);
    }
  }
  FC_INLINE void store_input_gradient(int64_t f, int64_t q, const S* from) const {
    const int64_t row = frame_step_[f] * a_.B + frame_row_[f];
    S* const to = static_cast<S*>(a_.d_input) + row * a_.I + q * C;
    for (int v = 0; v < Sh::kPlain; ++v) {
      const int64_t n = a_.I - q * C - v * L;
      if (n <= 0) break;
      V sum = load(from + v * L);
      if (a_.add_to_d_input) sum = sum + load_lanes<V>(to + v * L, n);
      store_lanes(to + v * L, sum, n);
    }
  }

  const int64_t M_;  // gates of a frame: G*H
  const WeightScratch<S, FrameElement> weights_;
  const S** rows_;                      // [chunk frames]
  const Element** elements_ = nullptr;  // the same, converted
  Element* converted_ = nullptr;        // [rows][G*H]
  S* products_;                         // [kBlockRows][C]
  S* panel_ = nullptr;  // [G*H][C] of a weight as it lies, or sums [kFewRows][padded H]
};

}  // namespace
}  // namespace fastcells
