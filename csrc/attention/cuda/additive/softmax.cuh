// What is done to whole rows of scores, a warp a row: softmax with dropout, its gradient; and the
// gradient of the mask. A lane has four neighbouring keys of each 128, which share a call of
// Philox. Rows lie in one buffer from the scores to the weights, in another from the weights'
// gradients to the scores'.
#pragma once
#include "attention/cuda/additive/tile.cuh"
#include "math/online_softmax.h"

namespace fastcells::additive {

struct ScoreRow {
  std::int64_t row, b, i;  // row = b * Tq + i
  bool exists;
  FC_DEVICE explicit ScoreRow(const AttentionArgs& a)
      : row(std::int64_t(blockIdx.x) * kWarps + warp()), exists(row < a.B * a.Tq) {
    b = exists ? row / a.Tq : 0, i = row - b * a.Tq;
  }
};

// f(group, k, j) for this lane's keys j = 4 * group + k below `count`; before(group) comes first.
template <class Before, class F>
FC_DEVICE void each_key(std::int64_t count, const Before& before, const F& f) {
  for (std::int64_t group = lane(); group * 4 < count; group += kLanes) {
    before(group);
    FC_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (group * 4 + k < count) f(k, group * 4 + k);
    }
  }
}
template <class F>
FC_DEVICE void each_key(std::int64_t count, const F& f) {
  each_key(count, [](std::int64_t) {}, [&](int, std::int64_t j) { f(j); });
}

// Scores become signed weights.
template <class T>
__global__ void __launch_bounds__(kThreads)
    weight_kernel(const __grid_constant__ cuda::AdditiveForwardArgs a) {
  const ScoreRow at(a);
  if (!at.exists) return;
  const std::int64_t length = length_of(a, at.b);
  float* const row = a.signed_weights + at.row * a.Tk;
  T* const weights = a.weights ? static_cast<T*>(a.weights) + at.row * a.Tk : nullptr;

  using Softmax = OnlineSoftmax<float, float>;
  float most = Softmax::kNothing, sum = 0.0f;
  each_key(length, [&](std::int64_t j) { most = row[j] > most ? row[j] : most; });
  FC_UNROLL
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(~0u, most, mask);
    most = other > most ? other : most;
  }
  Softmax softmax;
  softmax.max = most;
  const float reference = softmax.reference();
  each_key(length, [&](std::int64_t j) { sum += exp_below(row[j] - reference); });
  softmax.sum = warp_sum(sum);
  const float normaliser = softmax.normaliser();
  if (a.logsumexp && lane() == 0) {
    float* const parts = static_cast<float*>(a.logsumexp) + 2 * at.row;
    parts[0] = most, parts[1] = softmax.log_sum();
  }

  const AttentionPositions<T, float> positions(a, at.b, 0);
  float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  each_key(
      weights ? a.Tk : length,
      [&](std::int64_t group) {
        if (a.dropout.is_on) positions.dropout_factors(at.i, group, factor);
      },
      [&](int k, std::int64_t j) {
        const float weight = j < length ? exp_below(row[j] - reference) * normaliser : 0.0f;
        const bool is_kept = factor[k] != 0.0f;
        if (j < length) row[j] = ::copysignf(weight, is_kept ? 1.0f : -1.0f);
        if (weights) weights[j] = T(is_kept ? weight * factor[k] : 0.0f);
      });
}

// Gradients of the weights after dropout, but for grad_weights, become gradients of the scores:
//   ds = w (keep dw - delta),  delta = sum_j w keep dw
// A weight of 0 gives 0, whatever the value row holds.
template <class T>
__global__ void __launch_bounds__(kThreads)
    score_gradient_kernel(const __grid_constant__ cuda::AdditiveBackwardArgs a) {
  const ScoreRow at(a);
  if (!at.exists) return;
  const std::int64_t length = length_of(a, at.b);
  const float* const weights = a.signed_weights + at.row * a.Tk;
  float* const row = a.d_scores + at.row * a.Tk;
  const T* const given =
      a.grad_weights ? static_cast<const T*>(a.grad_weights) + at.row * a.Tk : nullptr;
  const float keep = keep_scale(a);
  const auto kept_gradient = [&](std::int64_t j) {
    const float gradient = given ? row[j] + float(given[j]) : row[j];
    return is_dropped(weights[j]) ? 0.0f : keep * gradient;
  };

  float delta = 0.0f;
  each_key(length, [&](std::int64_t j) {
    if (weights[j] != 0.0f) delta += ::fabsf(weights[j]) * kept_gradient(j);
  });
  delta = warp_sum(delta);
  each_key(length, [&](std::int64_t j) {
    row[j] = weights[j] != 0.0f ? ::fabsf(weights[j]) * (kept_gradient(j) - delta) : 0.0f;
  });
}

// ---- the mask's gradient ----

// Elements of the mask, and how many elements of the scores each stands for, by dimension.
struct MaskShape {
  std::int64_t batch, query, key, batches, queries, keys;

  FC_HD explicit MaskShape(const AttentionArgs& a)
      : batch(a.mask.batch ? a.B : 1),
        query(a.mask.query ? a.Tq : 1),
        key(a.mask.key ? a.Tk : 1),
        batches(a.mask.batch ? 1 : a.B),
        queries(a.mask.query ? 1 : a.Tq),
        keys(a.mask.key ? 1 : a.Tk) {}
  FC_HD std::int64_t count() const { return batch * query * key; }
  FC_HD std::int64_t rows() const { return batches * queries; }
};
struct MaskElement {
  std::int64_t b, i, j;
  FC_DEVICE MaskElement(const MaskShape& shape, std::int64_t number)
      : b(number / (shape.key * shape.query)),
        i(number / shape.key % shape.query),
        j(number % shape.key) {}
};

// The sum over every `step`-th row of scores that the element stands for.
FC_DEVICE float mask_gradient(const cuda::AdditiveBackwardArgs& a, const MaskShape& shape,
                              const MaskElement& at, std::int64_t first, int step) {
  float sum = 0.0f;
  for (std::int64_t n = first; n < shape.rows(); n += step) {
    const std::int64_t b = at.b + n / shape.queries, i = at.i + n % shape.queries;
    const std::int64_t length = length_of(a, b), end = at.j + shape.keys;
    const float* const row = a.d_scores + (b * a.Tq + i) * a.Tk;
    for (std::int64_t j = at.j; j < (end < length ? end : length); ++j) sum += row[j];
  }
  return sum;
}

// A thread owns an element; or, where many rows are summed up (kShared), the warps of a block share
// the rows of 32 elements.
template <bool kShared>
__global__ void __launch_bounds__(kThreads)
    mask_gradient_kernel(const __grid_constant__ cuda::AdditiveBackwardArgs a) {
  const MaskShape shape(a);
  const int own = kShared ? lane() : int(threadIdx.x);
  const std::int64_t number = std::int64_t(blockIdx.x) * (kShared ? kLanes : kThreads) + own;
  const bool exists = number < shape.count();
  float sum = 0.0f;
  if (exists) {
    sum = mask_gradient(a, shape, {shape, number}, kShared ? warp() : 0, kShared ? kWarps : 1);
  }
  if constexpr (kShared) {
    const auto parts = ptx::shared_array<float>(0, kThreads);
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (warp() > 0) return;
    for (int w = 1; w < kWarps; ++w) sum += parts[w * kLanes + own];
  }
  if (!exists) return;
  const MaskElement at(shape, number);
  static_cast<float*>(a.d_mask)[at.b * a.mask.batch + at.i * a.mask.query + at.j * a.mask.key] =
      sum;
}

}  // namespace fastcells::additive
