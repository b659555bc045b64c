// A scan forward: h = a h + b, lanes side by side, a few steps at a time.
#pragma once
#include "scan/cpu/kernels/rows_walk.h"
#include "scan/cpu/kernels/walk.h"

namespace fastcells {
namespace {

template <class N>
class ScanForward {
  using T = typename N::T;
  using S = typename N::S;
  using V = typename N::V;
  static constexpr int L = V::kLanes;

 public:
  static void run(const ScanForwardArgs& a, const cpu::ScanTask& task, void* state) {
    ScanForward pass(a, task, static_cast<S*>(state), nullptr);
    if (a.units < a.H) {
      pass.write_side_by_side();
    } else {
      pass.write();
    }
  }
  static bool summarise(const ScanForwardArgs& a, const cpu::ScanTask& task, void* state,
                        void* product) {
    return ScanForward(a, task, static_cast<S*>(state), static_cast<S*>(product)).summary();
  }

 private:
  ScanForward(const ScanForwardArgs& a, const cpu::ScanTask& task, S* state, S* product)
      : args_(a),
        task_(task),
        walk_(a, task, a.rows.reverse),
        a_(a.a, task),
        b_(a.b, task),
        h_(a.h, task),
        lanes_(task.last_lane - task.first_lane),
        state_(state),
        product_(product),
        there_(static_cast<S*>(task.scratch)) {}

  void write() {
    const Range absent = walk_.absent();
    for (int64_t t = absent.first; t < absent.last; ++t) clear_lanes(h_.at(t), lanes_);
    if (walk_.has_first()) start(task_.row, {0, lanes_});
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_);
      advance<Sweep::kWrite>(t, count);
    });
  }

  void write_side_by_side() {
    RowsWalk walk(args_, task_, args_.rows.reverse, args_.T);
    Presence<S> presence(there_, lanes_);
    walk.walk(
        [&](int64_t row) {
          presence.set(walk.lanes(row), true);
          start(row, walk.lanes(row));
        },
        [&](int64_t row) { presence.set(walk.lanes(row), false); },
        [&](int64_t row) { clear_lanes(state_, walk.lanes(row)); },
        [&](int64_t t, int64_t count, int64_t) {
          if (presence.is_full()) {
            advance<Sweep::kWrite>(t, count);
          } else {
            advance<Sweep::kWriteThose>(t, count);
          }
        });
  }

  bool summary() {
    bool reaches = !walk_.has_first();
    clear_lanes(state_, lanes_);
    if (!reaches) start(task_.row, {0, lanes_});
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      V one(S(0));
      for (int i = 0; i < L; i += N::kParts) one.v[i] = S(1);
      store_part<whole.value>(product_ + j, one, n);
    });
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_), reaches = false;
      advance<Sweep::kSumUp>(t, count);
    });
    return reaches;
  }

  // The state in front of a row's first step.
  void start(int64_t row, Range lanes) {
    if (!args_.h_0 || args_.rows.cut_initial(row)) return clear_lanes(state_, lanes);
    const int64_t offset = task_.row * args_.H + task_.first_lane + lanes.first;
    const T* const h_0 = static_cast<const T*>(args_.h_0) + offset;
    S* const state = state_ + lanes.first;
    each_vector<L>(lanes.last - lanes.first, [&](int64_t j, int64_t n, auto whole) {
      store_part<whole.value>(state + j, load_part<whole.value, V>(h_0 + j, n), n);
    });
  }

  // All h, h of the rows that are there and zeros beside them, or a summary.
  enum class Sweep { kWrite, kWriteThose, kSumUp };
  template <Sweep kSweep>
  void advance(int64_t t, int64_t count) {
    const int64_t d = walk_.direction();
    if (lanes_ <= kFewVectors * L) {
      for (; count >= kSweptStepsOfFewLanes; count -= kSweptStepsOfFewLanes) {
        sweep<kSweptStepsOfFewLanes, kSweep>(t);
        t += d * kSweptStepsOfFewLanes;
      }
    }
    for (; count >= kSweptSteps; count -= kSweptSteps, t += d * kSweptSteps) {
      sweep<kSweptSteps, kSweep>(t);
    }
    for (; count > 0; --count, t += d) sweep<1, kSweep>(t);
  }

  template <int kSteps, Sweep kSweep>
  void sweep(int64_t t) {
    constexpr bool kWrites = kSweep != Sweep::kSumUp;
    const int64_t d = walk_.direction(), h_step = d * h_.step;
    const Stream<N, kSteps> a(a_.data + t * a_.step, d * a_.step, a_.unit);
    const Stream<N, kSteps> b(b_.data + t * b_.step, d * b_.step, b_.unit);
    T* const h = h_.at(t);
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      constexpr bool kWhole = whole.value;
      V state = load_part<kWhole, V>(state_ + j, n);
      V product = kWrites ? V(S(0)) : load_part<kWhole, V>(product_ + j, n);
      each_step<kSteps, kWhole>([&](int u) {
        const V factor = a.template load<kWhole>(u, j, n);
        state = N::template multiply_add<false>(factor, state, b.template load<kWhole>(u, j, n));
        if constexpr (kSweep == Sweep::kWriteThose) {
          store_part<kWhole>(h + u * h_step + j, present<kWhole, V>(there_ + j, n, state), n);
        } else if constexpr (kWrites) {
          store_part<kWhole>(h + u * h_step + j, state, n);
        } else {
          product = N::multiply(factor, product);
        }
      });
      store_part<kWhole>(state_ + j, state, n);
      if constexpr (!kWrites) store_part<kWhole>(product_ + j, product, n);
    });
  }

  const ScanForwardArgs& args_;
  const cpu::ScanTask& task_;
  const Walk walk_;
  const Lanes<T> a_, b_;
  const ResultLanes<T> h_;
  const int64_t lanes_;
  S *const state_, *const product_;
  S* const there_;  // [lanes_]: 1, or 0 where a row has ended, or not begun
};

}  // namespace
}  // namespace fastcells
