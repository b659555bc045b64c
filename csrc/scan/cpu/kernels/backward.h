// The way back of a scan: g = grad + conj(a) g from the last step to the first, and from it the
// gradients of a, b and h_0 in the same pass.
#pragma once
#include "scan/cpu/kernels/rows_walk.h"
#include "scan/cpu/kernels/walk.h"

namespace fastcells {
namespace {

// What becomes of the gradient of a.
enum class FactorGradient { kNone, kEach, kSummed };
// Steps whose terms are added up on their own: the rounding of a long sum grows with their number.
constexpr int64_t kStepsOfSum = 128;

template <class N>
class ScanBackward {
  using T = typename N::T;
  using S = typename N::S;
  using V = typename N::V;
  static constexpr int L = V::kLanes;

 public:
  static void run(const ScanBackwardArgs& a, const cpu::ScanTask& task, void* state, void* sums) {
    ScanBackward pass(a, task, static_cast<S*>(state), static_cast<S*>(sums));
    if (a.d_a_sums) {
      pass.template write_all<FactorGradient::kSummed>();
    } else if (a.d_a.data) {
      pass.template write_all<FactorGradient::kEach>();
    } else {
      pass.template write_all<FactorGradient::kNone>();
    }
  }
  static bool summarise(const ScanBackwardArgs& a, const cpu::ScanTask& task, void* state,
                        void* product) {
    ScanBackward pass(a, task, static_cast<S*>(state), static_cast<S*>(product));
    return pass.summary();
  }

 private:
  // `second` are the sums, or the product of a summary.
  ScanBackward(const ScanBackwardArgs& a, const cpu::ScanTask& task, S* state, S* second)
      : args_(a),
        task_(task),
        walk_(a, task, !a.rows.reverse),
        a_(a.a, task),
        grad_(a.grad_h, task),
        h_(a.h, task),
        d_b_(a.d_b, task),
        d_a_(a.d_a, task),
        lanes_(task.last_lane - task.first_lane),
        state_(state),
        second_(second),
        there_(static_cast<S*>(task.scratch)) {}

  template <FactorGradient kFactor>
  void write_all() {
    if (args_.units < args_.H) return write_side_by_side<kFactor>();
    write<kFactor>();
  }

  template <FactorGradient kFactor>
  void write() {
    const Range absent = walk_.absent();
    for (int64_t t = absent.first; t < absent.last; ++t) {
      if (d_b_.data) clear_lanes(d_b_.at(t), lanes_);
      if constexpr (kFactor == FactorGradient::kEach) clear_lanes(d_a_.at(t), lanes_);
    }
    if (walk_.has_first()) clear_lanes(state_, lanes_);
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_);
      if constexpr (kFactor == FactorGradient::kNone) {
        advance<kFactor>(t, count);
      } else {
        // In the last step of a run h_p is another: h_0, or nothing.
        const int64_t d = walk_.direction(), last = t + d * (count - 1);
        const bool is_row_end = last + d < 0 || last + d >= walk_.length();
        const bool is_plain = !is_row_end && !walk_.is_cut_before(last + d);
        advance<kFactor>(t, count - (is_plain ? 0 : 1));
        if (!is_plain) end_run<kFactor>(last, is_row_end);
      }
    });
    if (task_.end == args_.T) finish<kFactor>();
  }

  template <FactorGradient kFactor>
  void write_side_by_side() {
    RowsWalk walk(args_, task_, !args_.rows.reverse, kStepsOfSum);
    Presence<S> presence(there_, lanes_);
    if (args_.d_h_0) clear_lanes(initial<T>(args_.d_h_0), lanes_);
    const auto end = [&](int64_t row) {
      if (args_.d_h_0 && !args_.rows.cut_initial(row)) store_initial(walk.lanes(row));
    };
    walk.walk(
        [&](int64_t row) {
          presence.set(walk.lanes(row), true);
          clear_lanes(state_, walk.lanes(row));
        },
        [&](int64_t row) {
          presence.set(walk.lanes(row), false);
          end(row);
        },
        [&](int64_t row) { clear_lanes(state_, walk.lanes(row)); },
        [&](int64_t t, int64_t count, int64_t behind) {
          if (presence.is_full()) {
            run_side_by_side<kFactor, true>(walk, t, count);
          } else {
            run_side_by_side<kFactor, false>(walk, t, count);
          }
          const bool folds = behind % kStepsOfSum == 0 || behind == args_.T;
          if (kFactor == FactorGradient::kSummed && folds) fold();
        });
    walk.each_ending(walk.direction() < 0 ? -1 : args_.T, [&](int64_t row) {
      if (args_.rows.length(row) > 0) end(row);
    });
    if constexpr (kFactor == FactorGradient::kSummed) store_sums();
  }

  template <FactorGradient kFactor, bool kAll>
  void run_side_by_side(const RowsWalk& walk, int64_t t, int64_t count) {
    if constexpr (kFactor == FactorGradient::kNone) {
      advance_some<kFactor, kAll>(t, count);
    } else {
      // In the last step of a run h_p may be another for some rows: h_0, or nothing.
      advance_some<kFactor, kAll>(t, count - 1);
      const int64_t last = t + walk.direction() * (count - 1);
      T* const before = reinterpret_cast<T*>(there_ + lanes_);
      collect_before(walk, last + walk.direction(), before);
      sweep<1, kFactor, kAll>(last, Stream<N, 1>(before, 0, 1));
    }
  }
  // h_p of the step in front of step `next` of the walk.
  void collect_before(const RowsWalk& walk, int64_t next, T* before) const {
    const bool is_there = next >= 0 && next < args_.T;
    for (int64_t j = 0; j < lanes_; ++j) {
      before[j] = is_there ? h_.data[next * h_.step + j * h_.unit] : T{};
    }
    walk.each_cut(next, [&](int64_t row) { clear_lanes(before, walk.lanes(row)); });
    walk.each_ending(next, [&](int64_t row) {
      const Range lanes = walk.lanes(row);
      const bool has_h_0 = args_.h_0 && !args_.rows.cut_initial(row);
      if (!has_h_0) return clear_lanes(before, lanes);
      for (int64_t j = lanes.first; j < lanes.last; ++j) before[j] = initial<const T>(args_.h_0)[j];
    });
  }

  bool summary() {
    bool reaches = !walk_.has_first();
    clear_lanes(state_, lanes_);
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      V one(S(0));
      for (int i = 0; i < L; i += N::kParts) one.v[i] = S(1);
      store_part<whole.value>(second_ + j, one, n);
    });
    const int64_t d = walk_.direction();
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_), reaches = false;
      for (; count >= kSweptSteps; count -= kSweptSteps, t += d * kSweptSteps) {
        sum_up<kSweptSteps>(t);
      }
      for (; count > 0; --count, t += d) sum_up<1>(t);
    });
    return reaches;
  }

  // The last step of a run, where h_p is h_0, or nothing.
  template <FactorGradient kFactor>
  void end_run(int64_t t, bool is_row_end) {
    const bool has_h_0 = is_row_end && args_.h_0 && !args_.rows.cut_initial(task_.row);
    if (has_h_0) {
      sweep<1, kFactor, true>(t, Stream<N, 1>(initial<const T>(args_.h_0), 0, 1));
    } else {
      sweep<1, kFactor, true>(t, Stream<N, 1>());
    }
    if constexpr (kFactor == FactorGradient::kSummed) fold();
  }
  // The task's lanes of h_0 and what lies like it.
  template <class X, class Void>
  X* initial(Void* p) const {
    return static_cast<X*>(p) + task_.row * args_.H + task_.first_lane;
  }

  template <FactorGradient kFactor>
  void advance(int64_t t, int64_t count) {
    while (count > 0) {
      const int64_t now = at_most(count, kStepsOfSum);
      advance_some<kFactor, true>(t, now);
      if constexpr (kFactor == FactorGradient::kSummed) fold();
      t += walk_.direction() * now, count -= now;
    }
  }
  // kAll: all lanes are there.
  template <FactorGradient kFactor, bool kAll>
  void advance_some(int64_t t, int64_t count) {
    const int64_t d = walk_.direction();
    const auto swept = [&](auto steps) {
      constexpr int kSteps = steps.value;
      for (; count >= kSteps; count -= kSteps, t += d * kSteps) {
        if constexpr (kFactor == FactorGradient::kNone) {
          sweep<kSteps, kFactor, kAll>(t, Stream<N, 1>());
        } else {
          sweep<kSteps, kFactor, kAll>(
              t, Stream<N, kSteps>(h_.data + (t + d) * h_.step, d * h_.step, h_.unit));
        }
      }
    };
    if (lanes_ <= kFewVectors * L) swept(std::integral_constant<int, kSweptStepsOfFewLanes>());
    swept(std::integral_constant<int, kSweptSteps>());
    swept(std::integral_constant<int, 1>());
  }

  // `previous` are h_p of these steps. Every sum and product is rounded on its own, and in the
  // order of time: the bits do not depend on how many steps are swept together.
  template <int kSteps, FactorGradient kFactor, bool kAll, class Previous>
  void sweep(int64_t t, const Previous& previous) {
    const int64_t d = walk_.direction();
    const Stream<N, kSteps> a(a_.data + t * a_.step, d * a_.step, a_.unit);
    const Stream<N, kSteps> grad(grad_.data + t * grad_.step, d * grad_.step, grad_.unit);
    T* const d_b = d_b_.at(t);
    T* const d_a = d_a_.at(t);
    const int64_t d_b_step = d * d_b_.step, d_a_step = d * d_a_.step;
    const bool has_d_b = d_b_.data != nullptr;
    S* const sums = second_;
    // Lanes that are not there have zeros, and add nothing.
    const auto those = [&](auto whole, int64_t j, int64_t n, V x, V otherwise) {
      if constexpr (kAll) return x;
      return present<whole.value, V>(there_ + j, n, x, otherwise);
    };
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      constexpr bool kWhole = whole.value;
      V state = load_part<kWhole, V>(state_ + j, n), sum(S(0));
      if constexpr (kFactor == FactorGradient::kSummed) sum = load_part<kWhole, V>(sums + j, n);
      each_step<kSteps, kWhole>([&](int u) {
        const V g = grad.template load<kWhole>(u, j, n) + state;
        state = N::conjugate_multiply(a.template load<kWhole>(u, j, n), g);
        if (has_d_b) {
          store_part<kWhole>(d_b + u * d_b_step + j, those(whole, j, n, g, V(S(0))), n);
        }
        if constexpr (kFactor != FactorGradient::kNone) {
          const V before = previous.template load<kWhole>(u, j, n);
          if constexpr (kFactor == FactorGradient::kEach) {
            const V d_factor = N::conjugate_multiply(before, g);
            store_part<kWhole>(d_a + u * d_a_step + j, those(whole, j, n, d_factor, V(S(0))), n);
          } else {
            sum = those(whole, j, n, N::template multiply_add<true>(before, g, sum), sum);
          }
        }
      });
      store_part<kWhole>(state_ + j, state, n);
      if constexpr (kFactor == FactorGradient::kSummed) store_part<kWhole>(sums + j, sum, n);
    });
  }

  // The sums of some steps go into those of all.
  void fold() {
    S *const some = second_, *const all = second_ + lanes_;
    for (int64_t j = 0; j < lanes_; ++j) all[j] += some[j], some[j] = S(0);
  }

  template <FactorGradient kFactor>
  void finish() {
    if constexpr (kFactor == FactorGradient::kSummed) store_sums();
    if (!args_.d_h_0) return;
    if (walk_.length() == 0 || args_.rows.cut_initial(task_.row)) {
      return clear_lanes(initial<T>(args_.d_h_0), lanes_);
    }
    store_initial({0, lanes_});
  }
  void store_sums() const {
    S* const to = initial<S>(args_.d_a_sums);
    for (int64_t j = 0; j < lanes_; ++j) to[j] = second_[lanes_ + j];
  }
  // The state of some lanes is their h_0's gradient.
  void store_initial(Range lanes) const {
    T* const to = initial<T>(args_.d_h_0) + lanes.first;
    const S* const state = state_ + lanes.first;
    each_vector<L>(lanes.last - lanes.first, [&](int64_t j, int64_t n, auto whole) {
      store_part<whole.value>(to + j, load_part<whole.value, V>(state + j, n), n);
    });
  }

  // State and product behind some steps.
  template <int kSteps>
  void sum_up(int64_t t) {
    const int64_t d = walk_.direction();
    const Stream<N, kSteps> a(a_.data + t * a_.step, d * a_.step, a_.unit);
    const Stream<N, kSteps> grad(grad_.data + t * grad_.step, d * grad_.step, grad_.unit);
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      constexpr bool kWhole = whole.value;
      V state = load_part<kWhole, V>(state_ + j, n), product = load_part<kWhole, V>(second_ + j, n);
      each_step<kSteps, kWhole>([&](int u) {
        const V factor = a.template load<kWhole>(u, j, n);
        state = N::conjugate_multiply(factor, state + grad.template load<kWhole>(u, j, n));
        product = N::conjugate_multiply(factor, product);
      });
      store_part<kWhole>(state_ + j, state, n);
      store_part<kWhole>(second_ + j, product, n);
    });
  }

  const ScanBackwardArgs& args_;
  const cpu::ScanTask& task_;
  const Walk walk_;
  const Lanes<T> a_, grad_, h_;
  const ResultLanes<T> d_b_, d_a_;
  const int64_t lanes_;
  S *const state_, *const second_;
  S* const there_;  // [lanes_]: 1, or 0 where a row is over, or has not begun; as many behind it
};

}  // namespace
}  // namespace fastcells
