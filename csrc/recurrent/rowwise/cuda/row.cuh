// A block on its row: sums over it, its moments, and its gates as the cell takes them.
//
// Threads share the units of a row, and a unit stays with its thread through a kernel: what a
// thread writes for its units between two sums over the row needs no barrier.
#pragma once
#include <cuda_runtime.h>

#include "cuda/storage.cuh"
#include "cuda/warp.cuh"
#include "math/exponentials.h"
#include "recurrent/cells/dispatch.h"
#include "recurrent/cuda/grid.h"
#include "recurrent/rowwise/cuda/args.h"
#include "recurrent/rowwise/norm.h"
#include "recurrent/stepwise/step_backward.h"

namespace fastcells {

static_assert(kWarpThreads == kLanes);
// Of a multiprocessor, at least: where ptxas may hope for more it spills a register or two.
constexpr int kLeastRowBlocks = 1;

template <class F>
FC_DEVICE void for_own(std::int64_t count, const F& f) {
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
}

// Each x becomes its sum over the threads of the block, in the same order for all of them.
template <int N, class A>
FC_DEVICE void block_sums(A (&x)[N]) {
  static_assert(N <= kMostRowSums);
  const auto parts = ptx::shared_array<A>(0, kMostRowWarps * N);
  const int warp = int(threadIdx.x) / kLanes, warps = int(blockDim.x) / kLanes;
  FC_UNROLL
  for (int k = 0; k < N; ++k) x[k] = warp_sum(x[k]);
  __syncthreads();  // the sums before have been read
  if (threadIdx.x % kLanes == 0) {
    FC_UNROLL
    for (int k = 0; k < N; ++k) parts[warp * N + k] = x[k];
  }
  __syncthreads();
  FC_UNROLL
  for (int k = 0; k < N; ++k) x[k] = A(0);
  for (int w = 0; w < warps; ++w) {
    FC_UNROLL
    for (int k = 0; k < N; ++k) x[k] += parts[w * N + k];
  }
}

// Of several vectors: (x - mean) * scale is normalised.
template <int N, class A>
struct RowMoments {
  A mean[N] = {}, scale[N] = {};

  // Of the first `vectors`, each of `width` values value(k, j).
  template <class Value>
  FC_DEVICE void find(int vectors, std::int64_t width, const Value& value) {
    sum_up(vectors, width, value, mean);
    sum_up(
        vectors, width,
        [&](int k, std::int64_t j) {
          const A x = value(k, j) - mean[k];
          return x * x;
        },
        scale);
    FC_UNROLL
    for (int k = 0; k < N; ++k) scale[k] = A(1) / square_root(scale[k] + A(kNormEpsilon));
  }
  FC_DEVICE A normalised(int k, A x) const { return (x - mean[k]) * scale[k]; }
  // The gradient of x from d, that of gain * normalised(x), times the gain: `means` are those of d
  // and of d normalised(x), vector by vector.
  FC_DEVICE A back(int k, A d, A x, const A (&means)[2 * N]) const {
    return scale[k] * (d - means[2 * k] - normalised(k, x) * means[2 * k + 1]);
  }

 private:
  template <class Value>
  FC_DEVICE static void sum_up(int vectors, std::int64_t width, const Value& value, A (&means)[N]) {
    for_own(width, [&](std::int64_t j) {
      FC_UNROLL
      for (int k = 0; k < N; ++k) {
        if (k < vectors) means[k] += value(k, j);
      }
    });
    block_sums(means);
    FC_UNROLL
    for (int k = 0; k < N; ++k) means[k] /= A(width);
  }
};

// A cell of which c may be normalised on its way to h.
template <class Cell>
constexpr bool kHasOutputGate = requires { Cell::kOutputGate; };

// The gates of a row from W x and W h as they come, or from their sum in the place of W x.
template <class Cell, class Types>
class RowGates {
  using A = typename Types::A;
  using T = typename Types::T;

 public:
  static constexpr int G = Cell::kGates, V = vectors_of<Cell>();
  static constexpr int kNorms = G > 2 ? G : 2;  // of both products, or of each gate

  // h: nullptr where x holds the sum.
  FC_DEVICE RowGates(const RowStepArgs& a, const A* x, const A* h) : a_(a), x_(x), h_(h) {}

  FC_DEVICE static A value(const void* vector, std::int64_t j) {
    return static_cast<A>(*at<T>(vector, j));
  }
  FC_DEVICE static A shift(const void* vector, std::int64_t j) {
    return vector ? value(vector, j) : A(0);
  }

  FC_DEVICE bool has_norm() const { return a_.norm_ih || a_.norm_gates; }
  FC_DEVICE void find_moments() {
    if (a_.norm_ih) {
      moments_.find(2, G * a_.H, [&](int k, std::int64_t j) { return k == 0 ? x_[j] : h_[j]; });
    } else if (a_.norm_gates) {
      moments_.find(G, a_.H, [&](int k, std::int64_t j) { return sum(k * a_.H + j); });
    }
  }
  // Values that a mean is of.
  FC_DEVICE A norm_width() const { return A(a_.norm_ih ? G * a_.H : a_.H); }

  // As the cell takes them.
  FC_DEVICE void load(std::int64_t u, A (&x)[G], A (&g)[G]) const {
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const std::int64_t j = k * a_.H + u;
      x[k] = shift(a_.bias_ih, j), g[k] = shift(a_.bias_hh, j);
      if (a_.norm_ih) x[k] += normalised_x(j) * value(a_.norm_ih, j);
      if (has_norm()) g[k] += normalised_h(k, j) * gain_of_h(j);
      if (!has_norm()) x[k] += x_[j], g[k] += h_[j];
    }
  }
  FC_DEVICE void run(std::int64_t u, const A (&x)[G], const A (&g)[G], A (&state)[Cell::kStates],
                     A (&saved)[Cell::kSaved]) const {
    if constexpr (V > 0) {
      A units[V];
      load_units(u, units);
      Cell::forward(x, g, units, state, saved);
    } else {
      Cell::forward(x, g, state, saved);
    }
  }
  template <int kCount>
  FC_DEVICE void load_units(std::int64_t u, A (&units)[kCount]) const {
    FC_UNROLL
    for (int k = 0; k < kCount; ++k) units[k] = value(a_.unit_weights, k * a_.H + u);
  }

  // Column j, which is of gate k.
  FC_DEVICE A sum(std::int64_t j) const { return h_ ? x_[j] + h_[j] : x_[j]; }
  FC_DEVICE A raw_h(std::int64_t j) const { return a_.norm_gates ? sum(j) : h_[j]; }
  FC_DEVICE A normalised_x(std::int64_t j) const { return moments_.normalised(0, x_[j]); }
  FC_DEVICE A normalised_h(int k, std::int64_t j) const {
    return a_.norm_ih ? moments_.normalised(1, h_[j]) : moments_.normalised(k, sum(j));
  }
  FC_DEVICE A gain_of_h(std::int64_t j) const {
    return value(a_.norm_ih ? a_.norm_hh : a_.norm_gates, j);
  }
  // Back through the normalisations; d: times the gain.
  FC_DEVICE A back_to_x(std::int64_t j, A d, const A (&means)[2 * kNorms]) const {
    return moments_.back(0, d, x_[j], means);
  }
  FC_DEVICE A back_to_h(int k, std::int64_t j, A d, const A (&means)[2 * kNorms]) const {
    return a_.norm_ih ? moments_.back(1, d, h_[j], means) : moments_.back(k, d, sum(j), means);
  }

 private:
  const RowStepArgs& a_;
  const A *x_, *h_;  // [G*H]
  RowMoments<kNorms, A> moments_;
};

}  // namespace fastcells
