// Stand-in of CUDA's header under the emulator: storage of 16 bits, arithmetic in float.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) {  // to the nearest, ties to even; NaN stays NaN
    std::uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    bits = x != x ? 0x7fc0 : std::uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  operator float() const {
    const std::uint32_t word = std::uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
};
