// What a layer draws while it runs: zoneout, and dropout of the h that enters its product.
// Torch-free.
//
// A matter of position alone (math/philox.h): unit u of row b at step t is zoned out, or dropped,
// iff word u % 4 at counter (t, u / 4, 4 b + kind, 0) is below rate * 2^32; t is 0 for a mask that
// holds at all steps. So the way back, and whoever computes the gates again, draw the same.
#pragma once
#include <cstdint>

#include "math/philox.h"

namespace fastcells {

enum class NoiseKind : std::uint32_t { kDropout, kZoneoutH, kZoneoutC };

// Elements of the tensor `noise` of a direction, float64, in this order: the seed is an integer
// below 2^53, is_training 0 or 1.
struct Noise {
  static constexpr int kCount = 5;

  double seed = 0;
  double dropout = 0;                   // h enters W_hh h as 0, or divided by 1 - dropout
  double zoneout_h = 0, zoneout_c = 0;  // probability that a unit keeps its old state at a step
  double is_training = 0;  // else: rate * old + (1 - rate) * new, and nothing is dropped

  FC_HD bool drops() const { return is_training != 0 && dropout > 0; }
  bool zones_out() const { return zoneout_h > 0 || zoneout_c > 0; }
};

// ---- the masks, a unit at a time ----

FC_HD bool is_drawn(const Noise& noise, NoiseKind kind, double rate, std::int64_t t, std::int64_t b,
                    std::int64_t u) {
  std::uint32_t word[4], own = 0;
  Philox::words(std::uint64_t(noise.seed), std::uint32_t(t), std::uint32_t(u / 4),
                std::uint32_t(4 * b) + std::uint32_t(kind), word);
  FC_UNROLL
  for (int i = 0; i < 4; ++i) own = u % 4 == i ? word[i] : own;
  return own < dropout_threshold(rate);
}
// How much of its old state, h or c, a unit keeps at a step.
template <class A>
FC_HD A kept_part(const Noise& noise, NoiseKind kind, std::int64_t t, std::int64_t b,
                  std::int64_t u) {
  const double rate = kind == NoiseKind::kZoneoutH ? noise.zoneout_h : noise.zoneout_c;
  if (rate == 0 || noise.is_training == 0) return A(rate);
  return is_drawn(noise, kind, rate, t, b, u) ? A(1) : A(0);
}
// The factor of h in front of its product.
template <class A>
FC_HD A drop_factor(const Noise& noise, std::int64_t b, std::int64_t u) {
  if (!noise.drops()) return A(1);
  if (noise.dropout == 1 || is_drawn(noise, NoiseKind::kDropout, noise.dropout, 0, b, u)) {
    return A(0);
  }
  return A(1 / (1 - noise.dropout));
}

}  // namespace fastcells
