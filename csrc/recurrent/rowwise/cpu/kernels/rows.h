// A row's mean and variance, what a normalisation hands back, and a row of masks.
#pragma once
#include "cpu/simd/lane_sums.h"
#include "cpu/simd/lanes.h"
#include "cpu/simd/philox_lanes.h"
#include "recurrent/rowwise/cpu/kernels/args.h"
#include "recurrent/rowwise/norm.h"

namespace fastcells {
namespace {

// (x - mean) * scale is normalised.
template <class S>
struct Moments {
  S mean, scale;
};

// The sum of n values, `at(j)` the vector that begins at j; what it holds past n counts for
// nothing.
template <class V, class At>
FC_INLINE typename V::S sum_over(int64_t n, const At& at) {
  using S = typename V::S;
  constexpr int64_t L = V::kLanes, kSums = 4;
  V sums[kSums] = {V(S(0)), V(S(0)), V(S(0)), V(S(0))};
  int64_t j = 0;
  for (; j + kSums * L <= n; j += kSums * L) {
    FC_UNROLL
    for (int s = 0; s < kSums; ++s) sums[s] = sums[s] + at(j + s * L);
  }
  for (; j + L <= n; j += L) sums[0] = sums[0] + at(j);
  if (j < n) {
    S few[L];
    store(few, at(j));
    sums[1] = sums[1] + load_first(few, int(n - j));
  }
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class V, class At>
FC_INLINE Moments<typename V::S> moments_of(int64_t n, const At& at) {
  using S = typename V::S;
  const S mean = sum_over<V>(n, at) / S(n);
  const S squares = sum_over<V>(n, [&](int64_t j) {
    const V x = at(j) - V(mean);
    return x * x;
  });
  return {mean, S(1) / std::sqrt(squares / S(n) + S(kNormEpsilon))};
}

// The way back through y = gain * normalised(x) over n values: with d' = d gain and x^ normalised,
// dx = scale (d' - mean(d') - x^ mean(d' x^)).
template <class V, class Gradient, class At>
struct NormBackward {
  using S = typename V::S;
  const Gradient scaled;  // d'(j)
  const At at;            // x(j)
  const Moments<S> of;
  S mean = 0, slope = 0;

  NormBackward(int64_t n, const Gradient& gradient, const At& values, Moments<S> moments)
      : scaled(gradient), at(values), of(moments) {
    mean = sum_over<V>(n, scaled) / S(n);
    slope = sum_over<V>(n, [&](int64_t j) { return scaled(j) * normalised(j); }) / S(n);
  }
  FC_INLINE V normalised(int64_t j) const { return (at(j) - V(of.mean)) * V(of.scale); }
  FC_INLINE V operator()(int64_t j) const {
    return V(of.scale) * (scaled(j) - V(mean) - normalised(j) * V(slope));
  }
};

// to[u] = `yes` where unit u of row b at step t is drawn with probability `rate`, else `no`, from
// units.first, a multiple of 4, to beyond units.last: at most kMaskBlock more.
constexpr int64_t kMaskBlock = 4 * WideWords::kLanes;

template <class S>
void draw_row(const Noise& noise, NoiseKind kind, double rate, int64_t t, int64_t b, Range units,
              S yes, S no, S* to) {
  constexpr int P = WideWords::kLanes;
  const std::uint64_t threshold = dropout_threshold(rate);
  for (int64_t u = units.first; u < units.last; u += kMaskBlock) {
    std::uint32_t word[4][P];
    philox_lanes(std::uint64_t(noise.seed), std::uint32_t(t), std::uint32_t(u / 4),
                 std::uint32_t(4 * b) + std::uint32_t(kind), word);
    for (int i = 0; i < kMaskBlock; ++i) to[u + i] = word[i % 4][i / 4] < threshold ? yes : no;
  }
}

// How much of its old state a unit keeps at a step: a row of factors, or nullptr for none.
template <class S>
const S* draw_zoneout(const Noise& noise, NoiseKind kind, double rate, int64_t t, int64_t b,
                      Range units, S* to) {
  if (noise.is_training != 0) {
    draw_row(noise, kind, rate, t, b, units, S(1), S(0), to);
  } else {
    for (int64_t u = units.first; u < units.last + kMaskBlock; ++u) to[u] = S(rate);
  }
  return to;
}
template <class S>
FC_INLINE const S* zoneout_row(const Noise& noise, NoiseKind kind, int64_t t, int64_t b,
                               Range units, S* to) {
  const double rate = kind == NoiseKind::kZoneoutH ? noise.zoneout_h : noise.zoneout_c;
  return rate == 0 ? nullptr : draw_zoneout(noise, kind, rate, t, b, units, to);
}

// The factors of h in front of its product, of the rows of a group, own units.
template <class S>
void draw_dropped(const rowwise::RowArgs& row, const cpu::RowGroup& group, int64_t padded_H,
                  Range units, S* scratch) {
  if (!row.dropped) return;
  const double rate = row.noise.dropout;
  for (int64_t r = 0; r < group.rows; ++r) {
    const int64_t b = group.order[r];
    S* const to = static_cast<S*>(row.dropped) + b * padded_H;
    draw_row(row.noise, NoiseKind::kDropout, rate, 0, b, units, S(0),
             rate < 1 ? S(1 / (1 - rate)) : S(0), scratch);
    std::memcpy(to + units.first, scratch + units.first,
                std::size_t(units.last - units.first) * sizeof(S));
  }
}

}  // namespace
}  // namespace fastcells
