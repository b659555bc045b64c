// A scan forward: h = a h + b, lanes side by side, a few steps at a time.
#pragma once
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
    ScanForward(a, task, static_cast<S*>(state), nullptr).write();
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
        product_(product) {}

  void write() {
    const Range absent = walk_.absent();
    for (int64_t t = absent.first; t < absent.last; ++t) clear(h_.at(t));
    if (walk_.has_first()) start();
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_);
      advance<true>(t, count);
    });
  }

  bool summary() {
    bool reaches = !walk_.has_first();
    clear_lanes(state_, lanes_);
    if (!reaches) start();
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      V one(S(0));
      for (int i = 0; i < L; i += N::kParts) one.v[i] = S(1);
      store_part<whole.value>(product_ + j, one, n);
    });
    walk_.each_run([&](int64_t t, int64_t count, bool is_cut) {
      if (is_cut) clear_lanes(state_, lanes_), reaches = false;
      advance<false>(t, count);
    });
    return reaches;
  }

  // The state in front of the row's first step.
  void start() {
    if (!args_.h_0 || args_.rows.cut_initial(task_.row)) return clear_lanes(state_, lanes_);
    const T* const h_0 = static_cast<const T*>(args_.h_0) + task_.row * args_.H + task_.first_lane;
    each_vector<L>(lanes_, [&](int64_t j, int64_t n, auto whole) {
      store_part<whole.value>(state_ + j, load_part<whole.value, V>(h_0 + j, n), n);
    });
  }
  void clear(T* row) const {
    for (int64_t j = 0; j < lanes_; ++j) row[j] = T{};
  }

  template <bool kWrites>
  void advance(int64_t t, int64_t count) {
    const int64_t d = walk_.direction();
    if (lanes_ <= kFewVectors * L) {
      for (; count >= kSweptStepsOfFewLanes; count -= kSweptStepsOfFewLanes) {
        sweep<kSweptStepsOfFewLanes, kWrites>(t);
        t += d * kSweptStepsOfFewLanes;
      }
    }
    for (; count >= kSweptSteps; count -= kSweptSteps, t += d * kSweptSteps) {
      sweep<kSweptSteps, kWrites>(t);
    }
    for (; count > 0; --count, t += d) sweep<1, kWrites>(t);
  }

  template <int kSteps, bool kWrites>
  void sweep(int64_t t) {
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
        if constexpr (kWrites) {
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
};

}  // namespace
}  // namespace fastcells
