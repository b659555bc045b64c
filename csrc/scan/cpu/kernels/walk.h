// The steps of a task: which of them exist, the runs between boundaries that no state crosses, and
// some steps of an operand at a time.
#pragma once
#include "scan/cpu/kernels/args.h"
#include "scan/cpu/kernels/numbers.h"

namespace fastcells {
namespace {

// Steps that are swept together: a state is loaded and stored once for all of them. More for few
// lanes, whose time is the latency of the chain through the state.
constexpr int kSweptSteps = 4, kSweptStepsOfFewLanes = 8;
constexpr int kFewVectors = 4;

// Less than a vector, as functions: there are many places, and the code of each is long.
template <class V, class T>
__attribute__((noinline)) V load_edge(const T* p, int64_t n) {
  T all[V::kLanes] = {};
  for (int64_t i = 0; i < n; ++i) all[i] = p[i];
  return load(all);
}
template <class V, class T>
__attribute__((noinline)) void store_edge(T* p, V x, int64_t n) {
  T all[V::kLanes];
  store(all, x);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}
template <bool kWhole, class V, class T>
FC_INLINE V load_part(const T* p, int64_t n) {
  if constexpr (kWhole) {
    return load(p);
  } else if constexpr (std::is_same_v<T, float>) {
    return load_first(p, int(n));
  } else {
    return load_edge<V>(p, n);
  }
}
template <bool kWhole, class V, class T>
FC_INLINE void store_part(T* p, V x, int64_t n) {
  if constexpr (kWhole) {
    store(p, x);
  } else if constexpr (std::is_same_v<T, float>) {
    store_first(p, x, int(n));
  } else {
    store_edge(p, x, n);
  }
}

// x where there is 1, and `otherwise` where there is 0.
template <bool kWhole, class V, class S>
FC_INLINE V present(const S* there, int64_t n, V x, V otherwise = V(S(0))) {
  return select(V(S(0)) < load_part<kWhole, V>(there, n), x, otherwise);
}

template <class S>
FC_INLINE void clear_lanes(S* p, Range lanes) {
  for (int64_t j = lanes.first; j < lanes.last; ++j) p[j] = S{};
}
template <class S>
FC_INLINE void clear_lanes(S* p, int64_t lanes) {
  clear_lanes(p, Range{0, lanes});
}

// f(first lane, count, whether they are a whole vector) for each vector of lanes.
template <int kLanes, class F>
FC_INLINE void each_vector(int64_t lanes, const F& f) {
  int64_t j = 0;
  for (; j + kLanes <= lanes; j += kLanes) f(j, int64_t(kLanes), std::true_type());
  if (j < lanes) f(j, lanes - j, std::false_type());
}
// f(u) for each of some steps: unrolled for whole vectors, whose time it is about.
template <int kSteps, bool kUnrolled, class F>
FC_INLINE void each_step(const F& f) {
  if constexpr (kUnrolled) {
    FC_UNROLL
    for (int u = 0; u < kSteps; ++u) f(u);
  } else {
#pragma GCC unroll 1
    for (int u = 0; u < kSteps; ++u) f(u);
  }
}

// kSteps steps of an operand, some lanes of each; where one number stands for all lanes, a vector
// of it for each step.
template <class N, int kSteps>
class Stream {
  using T = typename N::T;
  using V = typename N::V;

 public:
  // `at` is the first lane at the first step.
  FC_INLINE Stream(const T* at, int64_t step, int64_t unit) : at_(at), step_(step), unit_(unit) {
    if (unit == 0) spread();
  }
  Stream(const Stream&) = delete;
  // Zeros.
  FC_INLINE Stream() : at_(wide_), step_(0), unit_(0) {
    for (int i = 0; i < V::kLanes; ++i) wide_[i] = T{};
  }
  template <bool kWhole>
  FC_INLINE V load(int u, int64_t j, int64_t n) const {
    return load_part<kWhole, V>(at_ + u * step_ + j * unit_, n);
  }

 private:
  __attribute__((noinline)) void spread() {
    for (int u = 0; u < kSteps; ++u) {
      T* const to = wide_ + u * V::kLanes;
      for (int i = 0; i < V::kLanes; ++i) to[i] = at_[u * step_ + i % N::kParts];
    }
    at_ = wide_, step_ = V::kLanes;
  }

  const T* at_;
  int64_t step_, unit_;
  T wide_[kSteps * V::kLanes];
};

// An operand at the lanes of a task.
template <class T>
struct Lanes {
  const T* data;
  int64_t step, unit;
  FC_INLINE Lanes(const ScanOperand& x, const cpu::ScanTask& task)
      : data(static_cast<const T*>(x.data) + task.row * x.row + task.first_lane * x.unit),
        step(x.step),
        unit(x.unit) {}
};
template <class T>
struct ResultLanes {
  T* data;
  int64_t step;
  FC_INLINE ResultLanes(const ScanResult& x, const cpu::ScanTask& task)
      : data(static_cast<T*>(x.data) + (x.data ? task.row * x.row + task.first_lane : 0)),
        step(x.step) {}
  FC_INLINE T* at(int64_t t) const { return data + t * step; }
};

// The steps of a task by their numbers t, in the direction of its walk.
class Walk {
 public:
  // `is_down`: t decreases.
  FC_INLINE Walk(const ScanArgs& a, const cpu::ScanTask& task, bool is_down)
      : rows_(a.rows), b_(task.row), is_down_(is_down) {
    length_ = rows_.length(b_);
    low_ = is_down ? a.T - task.end : task.begin, high_ = is_down ? a.T - task.begin : task.end;
    last_ = at_most(high_, length_);
  }
  FC_INLINE int64_t direction() const { return is_down_ ? -1 : 1; }
  FC_INLINE int64_t length() const { return length_; }
  FC_INLINE bool is_empty() const { return last_ <= low_; }
  // Whether the row's first step is here, as the walk goes.
  FC_INLINE bool has_first() const {
    return !is_empty() && (is_down_ ? last_ == length_ : low_ == 0);
  }
  // The steps that do not exist: to be cleared.
  FC_INLINE Range absent() const { return {low_ > last_ ? low_ : last_, high_}; }

  // f(t, count, is_cut) for each run of steps from t on, in the direction of the walk; no state
  // comes in where it is cut.
  template <class F>
  FC_INLINE void each_run(const F& f) const {
    if (is_empty()) return;
    const int64_t from = is_down_ ? last_ - 1 : low_, count = last_ - low_, d = direction();
    for (int64_t done = 0; done < count;) {
      const int64_t t = from + d * done;
      int64_t run = 1;
      while (done + run < count && !is_cut_before(t + d * run)) ++run;
      f(t, run, is_cut_before(t));
      done += run;
    }
  }
  // Whether no state comes into step t from the one before it in this walk; the first of a row has
  // none before it.
  FC_INLINE bool is_cut_before(int64_t t) const {
    const int64_t boundary = is_down_ ? t + 1 : t;
    return rows_.resets && boundary > 0 && boundary < length_ &&
           rows_.resets[boundary * rows_.B + b_];
  }

 private:
  const Rows& rows_;
  int64_t b_, length_, low_, high_, last_;
  bool is_down_;
};

}  // namespace
}  // namespace fastcells
