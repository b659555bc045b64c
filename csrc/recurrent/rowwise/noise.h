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

  bool drops() const { return is_training != 0 && dropout > 0; }
  bool zones_out() const { return zoneout_h > 0 || zoneout_c > 0; }
};

}  // namespace fastcells
