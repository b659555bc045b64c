// Stand-in of CUDA's header under the emulator: storage of 16 bits, arithmetic in float.
#pragma once
#include <cstdint>

struct __half {
  _Float16 value;
  __half() = default;
  __half(float x) : value(static_cast<_Float16>(x)) {}
  operator float() const { return static_cast<float>(value); }
};
