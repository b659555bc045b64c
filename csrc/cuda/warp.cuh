// Lanes of a warp, and sums over them.
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"

namespace fastcells {

constexpr int kLanes = 32;

template <class A>
FC_DEVICE A warp_sum(A x) {
  FC_UNROLL
  for (int mask = kLanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}

}  // namespace fastcells
