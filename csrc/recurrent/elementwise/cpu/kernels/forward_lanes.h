// A cell's walk forward through the steps of a chunk, its state in registers.
#pragma once
#include "cpu/simd/pair.h"
#include "recurrent/elementwise/cpu/kernels/cell_lanes.h"

namespace fastcells {
namespace {

template <class Cell, class T, class S>
class ForwardLanes : CellLanes<Cell, T, S> {
  using Base = CellLanes<Cell, T, S>;
  using Base::a_, Base::rows_, Base::L, Base::G, Base::R;
  using Base::kStates, Base::kSaved, Base::kUnits;
  using typename Base::V, typename Base::Lane, typename Base::Span;

 public:
  explicit ForwardLanes(const elementwise::ForwardArgs& a) : Base(a), args_(a) {}

  void run(Span span, const Lane* lanes, int count) const {
    switch (count) {
      case 4: return walk<Pair<V>, 2>(span, lanes);
      case 2: return walk<Pair<V>, 1>(span, lanes);
      default: return walk<V, 1>(span, lanes);
    }
  }

 private:
  S* h_at(int64_t b) const { return this->carry(args_.carry_h, b); }
  S* c_at(int64_t b, int k) const { return this->carry(args_.carry_c, b, k); }
  static const S* gates_of(const Lane& at) { return static_cast<const S*>(at.gates); }

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
  __attribute__((noinline)) void walk(Span span, const Lane* lanes) const {
    constexpr int kWidth = std::is_same_v<A, V> ? 1 : 2;
    A state[N][kStates], units[N][kUnits], scale[N];
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      const Lane* const own = lanes + n * kWidth;
      state[n][0] = gather<A>(own, [&](const Lane& at) { return load(h_at(at.b) + at.u); });
      FC_UNROLL
      for (int k = 1; k < kStates; ++k) {
        state[n][k] = gather<A>(own, [&](const Lane& at) { return load(c_at(at.b, k) + at.u); });
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
      FC_UNROLL
      for (int k = 1; k < kStates; ++k) {
        scatter(own, state[n][k], [&](const Lane& at, V x) { store(c_at(at.b, k) + at.u, x); });
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
      x[k] = gather<A>(lanes,
                       [&](const Lane& at) { return load(gates_of(at) + frame * R * L + k * L); });
    }
    if constexpr (Cell::kReadsInput) {
      raw = scale * gather<A>(lanes, [&](const Lane& at) { return this->load_raw(i, at.b, at.u); });
    }
    Cell::forward(x, units, raw, state, saved);
    scatter(lanes, state[0], [&](const Lane& at, V h) {
      store_lanes(static_cast<T*>(args_.output) + row(t, at) * a_.output_stride + at.u, h,
                  a_.H - at.u);
    });
    FC_UNROLL
    for (int k = 1; k < kStates; ++k) {
      if (!args_.cells) break;
      scatter(lanes, state[k], [&](const Lane& at, V c) {
        S* const to = static_cast<S*>(args_.cells) + row(t, at) * a_.cells_stride;
        store_lanes(to + (k - 1) * a_.H + at.u, c, a_.H - at.u);
      });
    }
    for (int k = 0; args_.saved && k < kSaved; ++k) {
      scatter(lanes, saved[k], [&](const Lane& at, V x) {
        store_lanes(saved_at(t, at.b) + k * a_.H + at.u, x, a_.H - at.u);
      });
    }
    if (a_.resets) cut_states<A>(lanes, t, state);
  }
  int64_t row(int64_t t, const Lane& at) const { return t * a_.B + at.b; }
  T* saved_at(int64_t t, int64_t b) const {
    return static_cast<T*>(args_.saved) + (t * a_.B + b) * a_.saved_stride;
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

  const elementwise::ForwardArgs& args_;
};

}  // namespace
}  // namespace fastcells
