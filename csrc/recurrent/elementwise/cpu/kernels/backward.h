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

template <class Cell, class T, class P>
class ElementwiseBackward : Walk<Cell, T, P> {
  using Base = Walk<Cell, T, P>;
  using Base::a_, Base::rows_, Base::panels_, Base::blocks_, Base::ranges_, Base::group_;
  using Base::L, Base::G, Base::W, Base::R, Base::kStates, Base::kSaved, Base::kUnits;
  using typename Base::S, typename Base::V, typename Base::Sh, typename Base::Span;
  static constexpr int C = Sh::kColumns, kSlots = Cell::kUnitWeights + 1;

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
      if (kStates == 2) store(dc_at(b) + u, this->state_of(args_.d_c_n, b, u, a_.H));
    });
    bool is_first = true;
    for (int64_t end = a_.T; end > 0; end -= a_.chunk_steps, is_first = false) {
      run_chunk(end > a_.chunk_steps ? end - a_.chunk_steps : 0, end, is_first);
    }
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const bool cut = rows_.cut_initial(b);
      put_initial(args_.d_h_0, b, u, cut ? V(S(0)) : load(dh_at(b) + u));
      if (kStates == 2) put_initial(args_.d_c_0, b, u, cut ? V(S(0)) : load(dc_at(b) + u));
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
  S* dc_at(int64_t b) const { return this->carry(args_.carry_dc, b); }
  void put_initial(void* grads, int64_t b, int64_t u, V x) const {
    if (grads) store_lanes(static_cast<S*>(grads) + b * a_.H + u, x, a_.H - u);
  }

  void run_chunk(int64_t begin, int64_t end, bool is_first) {
    for (int64_t block = blocks_.first; block < blocks_.last && !args_.saved; ++block) {
      run_block_again(block, begin, end);
    }
    const int64_t frames = list_all(begin, end);
    for (int64_t block = blocks_.first; block < blocks_.last && args_.saved; ++block) {
      const Range rows = this->rows_of(block);
      for (int64_t u = panels_.first * Sh::kUnits; u < at_most(panels_.last * Sh::kUnits, a_.H);
           u += L) {
        for (int64_t b = rows.first; b < rows.last; ++b) walk(block, b, u, nullptr);
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
      const S* gates[W * Base::kLanesTogether];
      for (int64_t b = rows.first; b < rows.last; ++b) {
        for (int64_t v = 0; v < count * W; ++v) gates[v] = this->gates_at(v / W, int(v % W), b);
        const int64_t own_frame = ranges_[b].frame;
        ranges_[b].frame += frames_before(block, begin, end);
        for (int64_t v = 0; v < count * W; ++v) {
          const int64_t u = q * Sh::kUnits + v * L;
          if (u < a_.H) walk(block, b, u, gates[v]);
        }
        ranges_[b].frame = own_frame;
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

  // The states that entered a step: where they begin; nullptr for zeros.
  struct Entering {
    const T* h;
    const S* c;          // of a step before
    const T* initial_c;  // in the place of c at the first step
  };
  FC_INLINE Entering entering(int64_t t, int64_t b) const {
    if (rows_.is_first(t, b)) {
      if (rows_.cut_initial(b)) return {};
      return {row_of<T>(a_.h_0, b, a_.H), nullptr, row_of<T>(a_.c_0, b, a_.H)};
    }
    const int64_t previous = rows_.previous(t), row = previous * a_.B + b;
    if (rows_.cut_after(previous, b)) return {};
    return {row_of<T>(args_.output, row, a_.output_stride),
            row_of<S>(args_.cells, row, a_.cells_stride), nullptr};
  }
  template <class X>
  static FC_INLINE const X* row_of(const void* base, int64_t row, int64_t stride) {
    return base ? static_cast<const X*>(base) + row * stride : nullptr;
  }
  template <class X>
  FC_INLINE V units_of(const X* row, int64_t u) const {
    return row ? load_lanes<V>(row + u, a_.H - u) : V(S(0));
  }

  // One lane through its steps of the chunk; `gates` where they are computed again.
  __attribute__((noinline)) void walk(int64_t block, int64_t b, int64_t u, const S* gates) const {
    V units[kUnits], d_state[kStates], sums[kSlots];
    this->load_units(u, units);
    const V scale = this->load_skip_scale(u);
    d_state[0] = load(dh_at(b) + u);
    if constexpr (kStates == 2) d_state[1] = load(dc_at(b) + u);
    for (V& sum : sums) sum = V(S(0));
    const Span span = ranges_[b];
    for (int64_t i = span.last; i-- > span.first;) {
      const int64_t frame = i - span.first;
      run_cell(i, b, u, span.frame + frame, gates ? gates + frame * R * L : nullptr, units, scale,
               d_state, sums);
    }
    store(dh_at(b) + u, d_state[0]);
    if constexpr (kStates == 2) store(dc_at(b) + u, d_state[1]);
    if (Cell::kUnitWeights == 0 && !Cell::kReadsInput) return;
    S* const to = static_cast<S*>(args_.d_unit_weights) + block * kSlots * a_.padded_H + u;
    FC_UNROLL
    for (int k = 0; k < kSlots; ++k) {
      store(to + k * a_.padded_H, load(to + k * a_.padded_H) + sums[k]);
    }
  }

  FC_INLINE void run_cell(int64_t i, int64_t b, int64_t u, int64_t f, const S* gates,
                          const V (&units)[kUnits], V scale, V (&d_state)[kStates],
                          V (&sums)[kSlots]) const {
    const int64_t t = this->step(i), row = t * a_.B + b;
    V saved[kSaved], prev[kStates], next[kStates], dx[G], du[kUnits];
    V raw(S(0)), unscaled(S(0)), d_raw(S(0));
    if (rows_.cut_after(t, b)) {
      for (V& x : d_state) x = V(S(0));
    }
    d_state[0] = d_state[0] + units_of(row_of<T>(args_.d_output, row, a_.output_stride), u);
    const Entering from = entering(t, b);
    prev[0] = units_of(from.h, u), next[0] = V(S(0));
    if constexpr (kStates == 2) {
      d_state[1] = d_state[1] + units_of(row_of<S>(args_.d_cells, row, a_.cells_stride), u);
      prev[1] = from.initial_c ? units_of(from.initial_c, u) : units_of(from.c, u);
      next[1] = units_of(row_of<S>(args_.cells, row, a_.cells_stride), u);
    }
    if constexpr (Cell::kReadsInput) {
      unscaled = this->load_raw(this->input_row(i, b), u);
      raw = scale * unscaled;
    }
    if (gates) {
      V x[G], state[kStates];
      FC_UNROLL
      for (int k = 0; k < G; ++k) x[k] = load(gates + k * L);
      FC_UNROLL
      for (int k = 0; k < kStates; ++k) state[k] = prev[k];
      Cell::forward(x, units, raw, state, saved);
      // As it was stored: what follows from a rounded h may lie on the other side of a kink.
      if constexpr (Cell::kSavesNewH) {
        saved[0] = units_of(row_of<T>(args_.output, row, a_.output_stride), u);
      }
    } else {
      const T* const kept = row_of<T>(args_.saved, row, a_.saved_stride);
      FC_UNROLL
      for (int k = 0; k < kSaved; ++k) saved[k] = units_of(kept + k * a_.H, u);
    }
    Cell::backward(saved, units, raw, prev, next, d_state, dx, du, d_raw);
    S* const to = static_cast<S*>(args_.dx_gates) + f * G * a_.H + u;
    FC_UNROLL
    for (int k = 0; k < G; ++k) store_lanes(to + k * a_.H, dx[k], a_.H - u);
    FC_UNROLL
    for (int k = 0; k < Cell::kUnitWeights; ++k) sums[k] = sums[k] + du[k];
    if constexpr (Cell::kReadsInput) {
      sums[kSlots - 1] = sums[kSlots - 1] + d_raw * unscaled;
      store_lanes(static_cast<S*>(args_.d_raw) + f * a_.I + a_.raw_column + u, d_raw * scale,
                  a_.H - u);
    }
  }

  // ---- products over all frames of the chunk ----

  Range own_share(int64_t count) const { return share_of(count, share_->rank, share_->threads); }
  const S* gates_of(int64_t f) const {
    return static_cast<const S*>(args_.dx_gates) + f * G * a_.H;
  }

  void add_up(int64_t frames, bool is_first) {
    const int64_t M = G * a_.H;
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
    const int64_t M = G * a_.H, blocks = divide_up(frames, kBlockRows), panels = divide_up(a_.I, C);
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
      if (Cell::kReadsInput) {
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
