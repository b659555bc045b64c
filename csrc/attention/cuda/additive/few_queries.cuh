// Few queries, as in a decoder's step: no tile of 64 queries, all parallelism over keys.
//
//   pairs   scores, or gradients of weights: a warp has four keys of one query, its lanes the units
//           (or the columns of the values)
//   output  a block has 64 columns of one query's output, its warps share the keys
#pragma once
#include "attention/cuda/additive/tile.cuh"

namespace fastcells::additive {

constexpr int kFewQueries = 16;  // below: with these kernels. A tile then wastes 3/4 of its work,
                                 // a pair here costs two special functions for one half
constexpr int kWarpKeys = 4;
constexpr int kPairKeys = kWarps * kWarpKeys;  // of a block

// s_ij = sum_d u_d - 2 sum_d u_d r_ijd
template <class T>
struct ScorePairs {
  using Args = cuda::AdditiveForwardArgs;
  FC_DEVICE ScorePairs(const Args& args, std::int64_t b)
      : a(args),
        query(Rows<T>::of(args.query, b, args.Tq, args.E)),
        key(Rows<T>::of_keys(args, args.key, b, args.E)),
        batch(b) {}
  FC_DEVICE std::int64_t depth() const { return a.E; }
  FC_DEVICE float factor(std::int64_t, std::int64_t d) const {
    return static_cast<const float*>(a.units)[d];
  }
  FC_DEVICE float term(std::int64_t i, std::int64_t j, std::int64_t d) const {
    return 1.0f - 2.0f * reciprocal_part(query(i, d) + key(j, d));
  }
  FC_DEVICE void store(std::int64_t i, std::int64_t j, float sum) const {
    if (j >= key.rows) return;
    const AttentionPositions<T, float> positions(a, batch, 0);
    a.signed_weights[(batch * a.Tq + i) * a.Tk + j] = positions.masked(sum, i, j);
  }

  const Args& a;
  const Rows<T> query, key;
  const std::int64_t batch;
};

// dw_ij = sum_e dO_ie V_je
template <class T>
struct WeightGradientPairs {
  using Args = cuda::AdditiveBackwardArgs;
  FC_DEVICE WeightGradientPairs(const Args& args, std::int64_t b)
      : a(args),
        d_output(Rows<T>::of(args.grad_output, b, args.Tq, args.Ev)),
        value(Rows<T>::of_keys(args, args.value, b, args.Ev)),
        batch(b) {}
  FC_DEVICE std::int64_t depth() const { return a.Ev; }
  FC_DEVICE float factor(std::int64_t i, std::int64_t e) const { return d_output(i, e); }
  FC_DEVICE float term(std::int64_t, std::int64_t j, std::int64_t e) const { return value(j, e); }
  FC_DEVICE void store(std::int64_t i, std::int64_t j, float sum) const {
    if (j < value.rows) a.d_scores[(batch * a.Tq + i) * a.Tk + j] = sum;
  }

  const Args& a;
  const Rows<T> d_output, value;
  const std::int64_t batch;
};

template <class Pairs>
__global__ void __launch_bounds__(kThreads)
    pair_kernel(const __grid_constant__ typename Pairs::Args args) {
  const TilePlace place(args.Tq, tiles(args.Tk, kPairKeys));
  const Pairs pairs(args, place.b);
  const std::int64_t i = place.row, first = place.column * kPairKeys + warp() * kWarpKeys;
  float sums[kWarpKeys] = {};
  for (std::int64_t d = lane(); d < pairs.depth(); d += kLanes) {
    const float factor = pairs.factor(i, d);
    FC_UNROLL
    for (int k = 0; k < kWarpKeys; ++k) sums[k] += factor * pairs.term(i, first + k, d);
  }
  FC_UNROLL
  for (int k = 0; k < kWarpKeys; ++k) {
    const float sum = warp_sum(sums[k]);
    if (lane() == k) pairs.store(i, first + k, sum);
  }
}

constexpr int kStepColumns = 2 * kLanes;
constexpr int kStepOutputBytes = kWarps * kStepColumns * int(sizeof(float));

template <class T>
__global__ void __launch_bounds__(kThreads)
    step_output_kernel(const __grid_constant__ cuda::AdditiveForwardArgs a) {
  const TilePlace place(a.Tq, tiles(a.Ev, kStepColumns));
  const std::int64_t length = length_of(a, place.b), row = place.b * a.Tq + place.row;
  const std::int64_t column = place.column * kStepColumns + lane();
  const auto value = Rows<T>::of_keys(a, a.value, place.b, a.Ev);
  const float* const weights = a.signed_weights + row * a.Tk;
  const float scale = keep_scale(a);

  float sums[2] = {};
  for (std::int64_t first = warp() * kLanes; first < length; first += kThreads) {
    const std::int64_t j = first + lane(), left = length - first;
    const float mine = j < length ? kept_weight(weights[j], scale) : 0.0f;
    for (int k = 0; k < (left < kLanes ? int(left) : kLanes); ++k) {
      const float weight = __shfl_sync(~0u, mine, k);
      sums[0] += weight * value(first + k, column);
      sums[1] += weight * value(first + k, column + kLanes);
    }
  }

  const auto parts = ptx::shared_array<float>(0, kWarps * kStepColumns);
  parts[warp() * kStepColumns + lane()] = sums[0];
  parts[warp() * kStepColumns + lane() + kLanes] = sums[1];
  __syncthreads();
  const std::int64_t own = place.column * kStepColumns + threadIdx.x;
  if (threadIdx.x >= kStepColumns || own >= a.Ev) return;
  float sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) sum += parts[w * kStepColumns + int(threadIdx.x)];
  static_cast<T*>(a.output)[row * a.Ev + own] = T(sum);
}

}  // namespace fastcells::additive
