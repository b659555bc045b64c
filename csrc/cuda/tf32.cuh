// float32 for products of TF32: x = high + low, each of 11 bits, and x y is high high + high low +
// low high, to 2^-21 or so of it. (NVIDIA calls this 3xTF32.)
#pragma once
#include "cuda/ptx.cuh"
#include "math/activations.h"

namespace fastcells {

// A float32 in two numbers of TF32.
struct SplitWord {
  unsigned high, low;
};
FC_DEVICE SplitWord split(unsigned word) {
  const unsigned high = ptx::round_to_tf32(word);
  float whole, most, rest;
  memcpy(&whole, &word, sizeof whole);
  memcpy(&most, &high, sizeof most);
  rest = whole - most;
  SplitWord result{high, 0};
  memcpy(&result.low, &rest, sizeof rest);
  return result;
}

}  // namespace fastcells
