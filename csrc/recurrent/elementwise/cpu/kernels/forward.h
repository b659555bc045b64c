// One direction of an elementwise layer through time: a thread's rows and units, and no other
// thread is waited for.
//
//   for each chunk of steps, block of rows, panel of units:
//     gates = input W_ih^T + b_ih                      all frames at once, in the cache
//     for each lane of the panel:  the cell, step after step, its state in registers
#pragma once
#include "recurrent/elementwise/cpu/kernels/walk.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class ElementwiseForward : Walk<Cell, T, P> {
  using Base = Walk<Cell, T, P>;
  using Base::a_, Base::rows_, Base::panels_, Base::blocks_, Base::ranges_, Base::group_;
  using Base::L, Base::G, Base::W, Base::R, Base::kStates, Base::kSaved, Base::kUnits;
  using typename Base::S, typename Base::V, typename Base::Sh, typename Base::Span;

 public:
  static std::size_t scratch_bytes(const elementwise::WalkArgs& a) {
    return ElementwiseForward(a, nullptr).arena_.used;
  }
  ElementwiseForward(const elementwise::ForwardArgs& a, const elementwise::Share& share)
      : ElementwiseForward(a, share.scratch) {
    args_ = &a;
    this->take_share(share);
  }

  void run() {
    start();
    for (int64_t begin = 0; begin < a_.T; begin += a_.chunk_steps) {
      const int64_t end = at_most(begin + a_.chunk_steps, a_.T);
      for (int64_t block = blocks_.first; block < blocks_.last; ++block) {
        run_block(this->rows_of(block), begin, end);
      }
    }
    finish();
  }

 private:
  ElementwiseForward(const elementwise::WalkArgs& a, void* scratch)
      : Base(a, a.block_rows * a.chunk_steps, scratch) {}

  void start() {
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const bool cut = rows_.cut_initial(b);
      store(h_at(b) + u, cut ? V(S(0)) : this->state_of(a_.h_0, b, u, a_.H));
      if (kStates == 2) store(c_at(b) + u, cut ? V(S(0)) : this->state_of(a_.c_0, b, u, a_.H));
    });
  }
  // What is left in the carries are the final states: no reset stands behind a row's last step.
  void finish() {
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const int64_t to = b * a_.H + u, n = a_.H - u;
      store_lanes(static_cast<T*>(args_->h_n) + to, load(h_at(b) + u), n);
      if (kStates == 2) store_lanes(static_cast<T*>(args_->c_n) + to, load(c_at(b) + u), n);
    });
  }
  S* h_at(int64_t b) const { return this->carry(args_->carry_h, b); }
  S* c_at(int64_t b) const { return this->carry(args_->carry_c, b); }

  void run_block(Range rows, int64_t begin, int64_t end) {
    const int64_t frames = this->list_spans(rows, begin, end);
    this->list_inputs(rows);
    for (int64_t q = panels_.first; q < panels_.last; q += group_) {
      const int64_t count = at_most(group_, panels_.last - q);
      this->multiply(q, count, frames);
      for (int64_t j = 0; j < count; ++j) {
        for (int w = 0; w < W; ++w) {
          const int64_t u = (q + j) * Sh::kUnits + w * L;
          for (int64_t b = rows.first; b < rows.last && u < a_.H; ++b) {
            clear_absent(b, u, begin, end);
            add_lane({b, u, this->gates_at(j, w, b)});
          }
        }
      }
      walk_waiting();
    }
  }

  struct Lane {
    int64_t b, u;
    const S* gates;
  };

  // Four lanes walk together, as two pairs, where their steps are the same.
  void add_lane(Lane lane) {
    waiting_[count_++] = lane;
    if (count_ == 4) walk_waiting();
  }
  bool have_same_steps(int first, int count) const {
    const Span& span = ranges_[waiting_[first].b];
    for (int i = 1; i < count; ++i) {
      const Span& other = ranges_[waiting_[first + i].b];
      if (other.first != span.first || other.last != span.last) return false;
    }
    return true;
  }
  void walk_waiting() {
    for (int i = 0; i < count_;) {
      if (i + 4 <= count_ && have_same_steps(i, 4)) {
        walk<Pair<V>, 2>(waiting_ + i), i += 4;
      } else if (i + 2 <= count_ && have_same_steps(i, 2)) {
        walk<Pair<V>, 1>(waiting_ + i), i += 2;
      } else {
        walk<V, 1>(waiting_ + i), i += 1;
      }
    }
    count_ = 0;
  }

  // value(lane) of the lanes of one A; and f(lane, its part of x).
  template <class A, class F>
  static FC_INLINE A gather(const Lane* lanes, const F& value) {
    if constexpr (std::is_same_v<A, V>) {
      return value(lanes[0]);
    } else {
      return A(value(lanes[0]), value(lanes[1]));
    }
  }
  template <class F>
  static FC_INLINE void scatter(const Lane* lanes, V x, const F& f) {
    f(lanes[0], x);
  }
  template <class F>
  static FC_INLINE void scatter(const Lane* lanes, Pair<V> x, const F& f) {
    f(lanes[0], x.a), f(lanes[1], x.b);
  }

  // N values A of one or two lanes each, through their steps of the chunk.
  template <class A, int N>
  __attribute__((noinline)) void walk(const Lane* lanes) const {
    constexpr int kWidth = std::is_same_v<A, V> ? 1 : 2;
    A state[N][kStates], units[N][kUnits], scale[N];
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      const Lane* const own = lanes + n * kWidth;
      state[n][0] = gather<A>(own, [&](const Lane& at) { return load(h_at(at.b) + at.u); });
      if constexpr (kStates == 2) {
        state[n][1] = gather<A>(own, [&](const Lane& at) { return load(c_at(at.b) + at.u); });
      }
      FC_UNROLL
      for (int k = 0; k < kUnits; ++k) {
        units[n][k] = gather<A>(own, [&](const Lane& at) {
          V all[kUnits];
          this->load_units(at.u, all);
          return all[k];
        });
      }
      scale[n] = gather<A>(own, [&](const Lane& at) { return this->load_skip_scale(at.u); });
    }
    const Span span = ranges_[lanes[0].b];
    for (int64_t i = span.first; i < span.last; ++i) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        run_cell<A>(lanes + n * kWidth, i, i - span.first, units[n], scale[n], state[n]);
      }
    }
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      const Lane* const own = lanes + n * kWidth;
      scatter(own, state[n][0], [&](const Lane& at, V x) { store(h_at(at.b) + at.u, x); });
      if constexpr (kStates == 2) {
        scatter(own, state[n][1], [&](const Lane& at, V x) { store(c_at(at.b) + at.u, x); });
      }
    }
  }

  template <class A>
  FC_INLINE void run_cell(const Lane* lanes, int64_t i, int64_t frame, const A (&units)[kUnits],
                          A scale, A (&state)[kStates]) const {
    const int64_t t = this->step(i);
    A x[G], raw(S(0)), saved[kSaved];
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      x[k] =
          gather<A>(lanes, [&](const Lane& at) { return load(at.gates + frame * R * L + k * L); });
    }
    if constexpr (Cell::kReadsInput) {
      raw = scale * gather<A>(lanes, [&](const Lane& at) {
              return this->load_raw(this->input_row(i, at.b), at.u);
            });
    }
    Cell::forward(x, units, raw, state, saved);
    scatter(lanes, state[0], [&](const Lane& at, V h) {
      store_lanes(static_cast<T*>(args_->output) + row(t, at) * a_.output_stride + at.u, h,
                  a_.H - at.u);
    });
    if constexpr (kStates == 2) {
      if (args_->cells) {
        scatter(lanes, state[1], [&](const Lane& at, V c) {
          store_lanes(static_cast<S*>(args_->cells) + row(t, at) * a_.cells_stride + at.u, c,
                      a_.H - at.u);
        });
      }
    }
    for (int k = 0; args_->saved && k < kSaved; ++k) {
      scatter(lanes, saved[k], [&](const Lane& at, V x) {
        store_lanes(saved_at(t, at.b) + k * a_.H + at.u, x, a_.H - at.u);
      });
    }
    if (a_.resets) cut_states<A>(lanes, t, state);
  }
  int64_t row(int64_t t, const Lane& at) const { return t * a_.B + at.b; }
  T* saved_at(int64_t t, int64_t b) const {
    return static_cast<T*>(args_->saved) + (t * a_.B + b) * a_.saved_stride;
  }
  template <class A>
  FC_INLINE void cut_states(const Lane* lanes, int64_t t, A (&state)[kStates]) const {
    const auto cut = [&](const Lane& at, V& x) {
      if (rows_.cut_after(t, at.b)) x = V(S(0));
    };
    FC_UNROLL
    for (int k = 0; k < kStates; ++k) {
      if constexpr (std::is_same_v<A, V>) {
        cut(lanes[0], state[k]);
      } else {
        cut(lanes[0], state[k].a), cut(lanes[1], state[k].b);
      }
    }
  }

  // Zeros where a row has no step.
  void clear_absent(int64_t b, int64_t u, int64_t begin, int64_t end) const {
    const V zero(S(0));
    const int64_t n = a_.H - u;
    for (int64_t i = begin; i < end; ++i) {
      if (i == ranges_[b].first) i = ranges_[b].last;
      if (i >= end) break;
      const int64_t t = this->step(i), r = t * a_.B + b;
      store_lanes(static_cast<T*>(args_->output) + r * a_.output_stride + u, zero, n);
      if (args_->cells) {
        store_lanes(static_cast<S*>(args_->cells) + r * a_.cells_stride + u, zero, n);
      }
      for (int k = 0; args_->saved && k < kSaved; ++k) {
        store_lanes(saved_at(t, b) + k * a_.H + u, zero, n);
      }
    }
  }

  const elementwise::ForwardArgs* args_ = nullptr;
  Lane waiting_[4];
  int count_ = 0;
};

}  // namespace
}  // namespace fastcells
