// The gates of a chunk on the way back, where the way forward did not keep them: of all its frames
// at once, because every h is known.
#pragma once
#include "recurrent/cpu/kernels/chunk_products.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class GatesAgain : protected ChunkProducts<T, P> {
  using S = typename P::S;
  using Element = typename P::Row;
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Sh::G;
  using Base = ChunkProducts<T, P>;

 protected:
  using Base::a_, Base::arena_, Base::place_;
  using Base::frames_, Base::frame_step_, Base::frame_row_;
  using Base::input_row, Base::entering, Base::load_entering;

  GatesAgain(const cpu::BackwardArgs& a, void* scratch) : Base(a, Cell::kGates, scratch) {
    if (a.saved) return;
    Arena& arena = arena_;
    const int64_t block = at_most(a.chunk_frames, kBlockFrames);
    x_rows_ = arena.take<const Element*>(block), h_rows_ = arena.take<const Element*>(block);
    x_gates_ = arena.take<S>(block * Sh::R * L), h_gates_ = arena.take<S>(block * Sh::R * L);
    if (P::kConverts || sizeof(T) != sizeof(S)) {
      x_converted_ = arena.take<Element>(block * P::row_length(a.I));
      h_converted_ = arena.take<Element>(block * P::row_length(a.H));
    }
    zeros_ = arena.take<Element>(P::row_length(a.H));
  }

  void compute_gates_again() {
    for (int64_t k = 0; k < P::row_length(a_.H); ++k) zeros_[k] = Element{};
    const Range panels =
        share_of(divide_up(a_.H, Sh::kUnits), place_->team_rank, place_->team_threads);
    for (int64_t f0 = 0; f0 < frames_; f0 += kBlockFrames) {
      const int64_t count = at_most(kBlockFrames, frames_ - f0);
      for (int64_t i = 0; i < count; ++i) {
        const T* h = entering(frame_step_[f0 + i], frame_row_[f0 + i]).h;
        x_rows_[i] = operand(input_row(f0 + i), a_.I, x_converted_ + i * P::row_length(a_.I));
        h_rows_[i] = operand(h, a_.H, h_converted_ + i * P::row_length(a_.H));
      }
      for (int64_t q = panels.first; q < panels.last; ++q) {
        gates(q, count, x_rows_, a_.I, a_.panels_ih, a_.bias_ih, x_gates_);
        gates(q, count, h_rows_, a_.H, a_.panels_hh, a_.bias_hh, h_gates_);
        for (int w = 0; w < Sh::W; ++w) {
          const int64_t u = q * Sh::kUnits + w * L;
          for (int64_t i = 0; i < count && u < a_.H; ++i) {
            const int64_t gate = i * Sh::R * L + w * G * L;
            cell_again(f0 + i, u, x_gates_ + gate, h_gates_ + gate);
          }
        }
      }
    }
    wait(place_->team_barrier);
  }

 private:
  // `row`, or zeros of nullptr: converted rows lie one after another.
  const Element* operand(const T* row, int64_t K, Element* to) const {
    if constexpr (!P::kConverts) {
      return row ? as_arithmetic(row, K, to) : zeros_;
    } else if (row) {
      P::convert(row, K, to, nullptr, nullptr);
    } else {
      std::memset(to, 0, std::size_t(P::row_length(K)) * sizeof *to);
    }
    return to;
  }
  void gates(int64_t q, int64_t count, const Element* const* rows, int64_t K, const void* panels,
             const void* bias, S* to) {
    constexpr int64_t kColumns = Sh::R * L;
    const S* init = bias ? static_cast<const S*>(bias) + q * kColumns : nullptr;
    const char* const panel = static_cast<const char*>(panels) + q * P::template bytes<Sh::R>(K);
    P::template multiply<Sh::R>(count, PanelRows<Element>{rows}, K, panel, init, 0, to, kColumns,
                                nullptr);
  }
  FC_INLINE void cell_again(int64_t f, int64_t u, const S* x_gates, const S* h_gates) const {
    V x[G], g[G], state[Cell::kStates], saved[Cell::kSaved];
    FC_UNROLL
    for (int k = 0; k < G; ++k) x[k] = load(x_gates + k * L), g[k] = load(h_gates + k * L);
    load_entering(entering(frame_step_[f], frame_row_[f]), u, state);
    Cell::forward(x, g, state, saved);
    S* const to = static_cast<S*>(a_.saved_again) + f * Cell::kSaved * a_.H + u;
    FC_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) store_lanes(to + k * a_.H, saved[k], a_.H - u);
  }

  // A block of frames.
  const Element **x_rows_ = nullptr, **h_rows_ = nullptr;
  S *x_gates_ = nullptr, *h_gates_ = nullptr;                // [frames][R*L]
  Element *x_converted_ = nullptr, *h_converted_ = nullptr;  // [frames][I], [H]: not as stored
  Element* zeros_ = nullptr;                                 // [H]
};

}  // namespace
}  // namespace fastcells
