// One step of one row or few, the weights read as they lie: every gate is a row of W times a
// vector. Nothing is packed, so that nothing can be out of date; a step reads each weight once,
// which is what it costs.
#pragma once
#include "recurrent/cpu/kernels/shape.h"

namespace fastcells {
namespace {

// Lane masks of one level of the sum below, made where the compiler sees constants.
template <class V, int kStride, bool kPartner>
FC_INLINE auto level_mask() {
  typedef std::conditional_t<sizeof(typename V::S) == 4, std::int32_t, std::int64_t> Index;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  Indices mask{};
  FC_UNROLL
  for (int lane = 0; lane < V::kLanes; ++lane) {
    const int from = kPartner ? lane ^ kStride : lane;
    mask[lane] = lane & kStride ? V::kLanes + from : from;
  }
  return mask;
}

// Lane i of the result is the sum of all lanes of sums[i].
template <int kStride, class V>
FC_INLINE V sum_lanes(V (&sums)[V::kLanes]) {
  FC_UNROLL
  for (int j = 0; j < V::kLanes; ++j) {
    if (j & kStride || j >= 2 * kStride) continue;
    const auto a = sums[j].v, b = sums[j | kStride].v;
    sums[j].v = __builtin_shuffle(a, b, level_mask<V, kStride, false>()) +
                __builtin_shuffle(a, b, level_mask<V, kStride, true>());
  }
  if constexpr (kStride > 1) return sum_lanes<kStride / 2>(sums);
  return sums[0];
}

// Lane i: row i of `weight` (rows of K elements, `count` of them) times x.
template <class V, class T>
FC_INLINE V rows_times(const T* weight, int64_t K, int64_t count, const typename V::S* x) {
  using S = typename V::S;
  constexpr int L = V::kLanes;
  V sums[L];
  const T* rows[L];
  FC_UNROLL
  for (int i = 0; i < L; ++i) {
    sums[i] = V(S(0));
    rows[i] = weight + (i < count ? i : 0) * K;
  }
  int64_t k = 0;
  for (; k + L <= K; k += L) {
    const V at_k = load(x + k);
    FC_UNROLL
    for (int i = 0; i < L; ++i) sums[i] = load(rows[i] + k) * at_k + sums[i];
  }
  if (k < K) {
    const V at_k = load_first(x + k, int(K - k));
    FC_UNROLL
    for (int i = 0; i < L; ++i) sums[i] = load_first(rows[i] + k, int(K - k)) * at_k + sums[i];
  }
  return sum_lanes<L / 2>(sums);
}

template <class Cell, class T, class S>
class Step {
  using V = Vector<S>;
  static constexpr int L = V::kLanes, G = Cell::kGates;

 public:
  explicit Step(const cpu::StepArgs& a) : a_(a) {}

  void run(int64_t b, Range units) const {
    const S* const x = static_cast<const S*>(a_.input) + b * a_.I;
    const S* const h = a_.h ? static_cast<const S*>(a_.h) + b * a_.H : nullptr;
    for (int64_t u = units.first; u < units.last; u += L) {
      const int64_t n = at_most(L, units.last - u);
      V x_gates[G], h_gates[G], state[Cell::kStates], saved[Cell::kSaved];
      for (int k = 0; k < G; ++k) {
        const int64_t row = k * a_.H + u;
        x_gates[k] = gate(a_.weight_ih, a_.bias_ih, row, a_.I, n, x);
        h_gates[k] = h ? gate(a_.weight_hh, a_.bias_hh, row, a_.H, n, h) : bias(a_.bias_hh, row, n);
      }
      state[0] = h ? load_lanes<V>(h + u, n) : V(S(0));
      if constexpr (Cell::kStates == 2) {
        state[1] = a_.c ? load_lanes<V>(static_cast<const T*>(a_.c) + b * a_.H + u, n) : V(S(0));
      }
      Cell::forward(x_gates, h_gates, state, saved);
      store_lanes(static_cast<T*>(a_.h_new) + b * a_.H + u, state[0], n);
      if constexpr (Cell::kStates == 2) {
        store_lanes(static_cast<T*>(a_.c_new) + b * a_.H + u, state[1], n);
        if (a_.cells) store_lanes(static_cast<S*>(a_.cells) + b * a_.H + u, state[1], n);
      }
      if (a_.saved) {
        T* const to = static_cast<T*>(a_.saved) + b * Cell::kSaved * a_.H + u;
        for (int k = 0; k < Cell::kSaved; ++k) store_lanes(to + k * a_.H, saved[k], n);
      }
    }
  }

 private:
  static V bias(const void* bias, int64_t row, int64_t n) {
    return bias ? load_lanes<V>(static_cast<const T*>(bias) + row, n) : V(S(0));
  }
  static V gate(const void* weight, const void* bias_of, int64_t row, int64_t K, int64_t n,
                const S* x) {
    return rows_times<V>(static_cast<const T*>(weight) + row * K, K, n, x) + bias(bias_of, row, n);
  }

  const cpu::StepArgs& a_;
};

}  // namespace
}  // namespace fastcells
