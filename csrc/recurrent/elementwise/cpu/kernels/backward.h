// One direction of an elementwise layer back through time.
//
//   for each chunk of steps, the last computed first:
//     (the gates of the chunk again, where they were not kept)
//     for each lane:  the cell's backward, step before step: gradients of its gates, its unit
//                     weights and of the input as it is                      barrier
//     d_input = dx W_ih + d_raw, dW_ih, db of the chunk's frames             barrier
//
// The products over all units are dealt out in blocks that do not depend on the threads.
#pragma once
#include "recurrent/elementwise/cpu/kernels/walk.h"

namespace fastcells {
namespace {

template <class T, class P>
class ElementwiseBackward : Walk<T, P> {
  using Base = Walk<T, P>;
  using Base::a_, Base::cell_, Base::rows_, Base::panels_, Base::blocks_, Base::ranges_;
  using Base::L, Base::group_, Base::panel_units_;
  using typename Base::S, typename Base::V, typename Base::Lane;
  using Sh = Shape<Columns, T, S>;
  static constexpr int C = Sh::kColumns;

 public:
  static std::size_t scratch_bytes(const elementwise::BackwardArgs& a) {
    return ElementwiseBackward(a, nullptr).arena_.used;
  }
  ElementwiseBackward(const elementwise::BackwardArgs& a, const elementwise::Share& share)
      : ElementwiseBackward(a, share.scratch) {
    share_ = &share;
    this->take_share(share);
  }

  void run() {
    this->for_own_lanes([&](int64_t b, int64_t u) {
      store(dh_at(b) + u, this->state_of(args_.d_h_n, b, u, a_.H));
      for (int k = 0; k < this->beside_h(); ++k) {
        const int64_t i = this->beside(b, k);
        store(dc_at(i) + u, this->state_of(args_.d_c_n, i, u, a_.H));
      }
    });
    bool is_first = true;
    for (int64_t end = a_.T; end > 0; end -= a_.chunk_steps, is_first = false) {
      run_chunk(end > a_.chunk_steps ? end - a_.chunk_steps : 0, end, is_first);
    }
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const bool cut = rows_.cut_initial(b);
      put_initial(args_.d_h_0, b, u, cut ? V(S(0)) : load(dh_at(b) + u));
      for (int k = 0; k < this->beside_h(); ++k) {
        const int64_t i = this->beside(b, k);
        put_initial(args_.d_c_0, i, u, cut ? V(S(0)) : load(dc_at(i) + u));
      }
    });
  }

 private:
  ElementwiseBackward(const elementwise::BackwardArgs& a, void* scratch)
      : Base(a, a.saved ? 0 : a.block_rows * a.chunk_steps, scratch),
        args_(a),
        weights_(this->arena_, C) {
    products_ = this->arena_.template take<S>(kBlockRows * C);
    dx_rows_ = this->arena_.template take<const S*>(kBlockRows);
    frame_rows_ = this->arena_.template take<int64_t>(a.B * a.chunk_steps);
  }

  S* dh_at(int64_t b) const { return this->carry(args_.carry_dh, b); }
  S* dc_at(int64_t i) const { return this->carry(args_.carry_dc, i); }
  // Row i of H units.
  void put_initial(void* grads, int64_t i, int64_t u, V x) const {
    if (grads) store_lanes(static_cast<S*>(grads) + i * a_.H + u, x, a_.H - u);
  }

  void run_chunk(int64_t begin, int64_t end, bool is_first) {
    for (int64_t block = blocks_.first; block < blocks_.last && !args_.saved; ++block) {
      run_block_again(block, begin, end);
    }
    const int64_t frames = list_all(begin, end);
    for (int64_t block = blocks_.first; block < blocks_.last && args_.saved; ++block) {
      const Range rows = this->rows_of(block);
      for (int64_t u = panels_.first * panel_units_; u < at_most(panels_.last * panel_units_, a_.H);
           u += L) {
        for (int64_t b = rows.first; b < rows.last; ++b) {
          cell_.backward(args_, ranges_[b], {b, u, nullptr}, block);
        }
      }
    }
    add_up(frames, is_first);
  }
  // The spans of all rows, and where each frame's row of the input lies.
  int64_t list_all(int64_t begin, int64_t end) {
    const int64_t frames = this->list_spans({0, a_.B}, begin, end);
    for (int64_t b = 0, f = 0; b < a_.B; ++b) {
      for (int64_t i = ranges_[b].first; i < ranges_[b].last; ++i) {
        frame_rows_[f++] = this->step(i) * a_.B + b;
      }
    }
    return frames;
  }
  void run_block_again(int64_t block, int64_t begin, int64_t end) {
    const Range rows = this->rows_of(block);
    for (int64_t q = panels_.first; q < panels_.last; q += group_) {
      const int64_t count = at_most(group_, panels_.last - q);
      const int64_t frames = this->list_spans(rows, begin, end);
      this->list_inputs(rows);
      this->multiply(q, count, frames);
      const int64_t before = frames_before(block, begin, end);
      for (int64_t b = rows.first; b < rows.last; ++b) {
        elementwise::Span span = ranges_[b];
        span.frame += before;
        for (int64_t v = 0; v < count * cell_.unit_vectors; ++v) {
          const int64_t u = q * panel_units_ + v * L;
          const S* const gates =
              this->gates_at(v / cell_.unit_vectors, int(v % cell_.unit_vectors), b);
          if (u < a_.H) cell_.backward(args_, span, {b, u, gates}, block);
        }
      }
    }
  }
  // Frames of a chunk in the rows in front of a block.
  int64_t frames_before(int64_t block, int64_t begin, int64_t end) const {
    int64_t frames = 0;
    for (int64_t b = 0; b < this->rows_of(block).first; ++b) {
      const int64_t length = rows_.length(b);
      const int64_t first = a_.reverse && a_.T - length > begin ? a_.T - length : begin;
      const int64_t last = !a_.reverse && length < end ? length : end;
      frames += last > first ? last - first : 0;
    }
    return frames;
  }

  // ---- products over all frames of the chunk ----

  Range own_share(int64_t count) const { return share_of(count, share_->rank, share_->threads); }
  int64_t all_gates() const { return cell_.gates * a_.H; }
  const S* gates_of(int64_t f) const {
    return static_cast<const S*>(args_.dx_gates) + f * all_gates();
  }

  void add_up(int64_t frames, bool is_first) {
    const int64_t M = all_gates();
    if (args_.d_weight_ih) pack_inputs(frames);
    wait(share_->barrier);
    if (args_.d_input) add_input_gradient(frames);
    const Range blocks = own_share(divide_up(M, kBlockRows));
    const Range own{blocks.first * kBlockRows, at_most(blocks.last * kBlockRows, M)};
    // In blocks of frames, so that few roundings meet one large sum.
    constexpr int64_t kBlock = 64;
    for (int64_t f = 0; args_.d_weight_ih && f < frames; f += kBlock) {
      add_weight_gradient<Sh>(gates_of(f), M, static_cast<const S*>(args_.plain_x) + f * C,
                              a_.B * a_.chunk_steps, a_.I, at_most(kBlock, frames - f), own,
                              is_first && f == 0, static_cast<S*>(args_.d_weight_ih), weights_);
    }
    if (args_.d_bias_ih) {
      add_bias_gradient<Sh>(gates_of(0), M, frames, own, is_first,
                            static_cast<S*>(args_.d_bias_ih));
    }
    wait(share_->barrier);
  }
  void pack_inputs(int64_t frames) const {
    const Range own = own_share(frames);
    for (int64_t f = own.first; f < own.last; ++f) {
      const T* const from = static_cast<const T*>(a_.input) + frame_rows_[f] * a_.I;
      for (int64_t q = 0; q * C < a_.I; ++q) {
        pack_plain_panel<Sh>(from, a_.I, q,
                             static_cast<S*>(args_.plain_x) + (q * a_.B * a_.chunk_steps + f) * C);
      }
    }
  }
  // Blocks of frames, or panels of columns where there are few of them.
  void add_input_gradient(int64_t frames) {
    const int64_t M = all_gates(), blocks = divide_up(frames, kBlockRows),
                  panels = divide_up(a_.I, C);
    const bool by_blocks = blocks >= 2 * share_->threads || panels < 2;
    const Range fs = by_blocks ? own_share(blocks) : Range{0, blocks};
    const Range qs = by_blocks ? Range{0, panels} : own_share(panels);
    for (int64_t block = fs.first; block < fs.last; ++block) {
      const int64_t f0 = block * kBlockRows, count = at_most(kBlockRows, frames - f0);
      for (int64_t i = 0; i < count; ++i) dx_rows_[i] = gates_of(f0 + i);
      for (int64_t q = qs.first; q < qs.last; ++q) {
        const auto* panel =
            static_cast<const char*>(args_.plain) + q * P::template bytes<Sh::kPlain>(M);
        P::template multiply<Sh::kPlain>(count, PanelRows<S>{dx_rows_}, M, panel, nullptr, 0,
                                         products_, C, nullptr);
        for (int64_t i = 0; i < count; ++i) store_input_gradient(f0 + i, q, products_ + i * C);
      }
    }
  }
  FC_INLINE void store_input_gradient(int64_t f, int64_t q, const S* from) const {
    for (int v = 0; v < Sh::kPlain; ++v) {
      const int64_t column = q * C + v * L, n = a_.I - column;
      if (n <= 0) break;
      S* const to = static_cast<S*>(args_.d_input) + frame_rows_[f] * a_.I + column;
      V sum = load(from + v * L);
      if (cell_.reads_input) {
        sum = sum + load_lanes<V>(static_cast<const S*>(args_.d_raw) + f * a_.I + column, n);
      }
      if (args_.add_to_d_input) sum = sum + load_lanes<V>(to, n);
      store_lanes(to, sum, n);
    }
  }

  const elementwise::BackwardArgs& args_;
  const WeightScratch<S, S> weights_;
  const elementwise::Share* share_ = nullptr;
  S* products_;          // [kBlockRows][C]
  const S** dx_rows_;    // [kBlockRows]
  int64_t* frame_rows_;  // [B*chunk_steps] t*B + b
};

}  // namespace
}  // namespace fastcells
