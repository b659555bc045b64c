// The instructions of every processor: vectors of 16 bytes, and what other instruction sets have a
// name for as plain C++. Included in front of every other header (cpu/simd/vector.h).
#pragma once
#include <cstdint>

#include "host_device.h"

namespace fastcells {
namespace {

struct Instructions {
  static constexpr const char* kName = "baseline";
#if defined(FASTCELLS_VECTOR_BYTES)  // a test runs the code of longer vectors on these registers
  static constexpr int kVectorBytes = FASTCELLS_VECTOR_BYTES;
#else
  static constexpr int kVectorBytes = 16;
#endif
  static constexpr int kRegisters = kVectorBytes == 64 ? 32 : 16;

  // acc += x * w
  template <class V>
  FC_INLINE static void multiply_add(V& acc, V x, V w) {
    acc = x * w + acc;
  }
  // 1 / x for 1 <= x < 2^126, within 2 ulp.
  template <class V>
  FC_INLINE static V reciprocal(V x) {
    return 1.0f / x;
  }
  // The larger of the two; where x is NaN, x.
  template <class V>
  FC_INLINE static V larger(V limit, V x) {
    return limit > x ? limit : x;
  }
  template <class V>
  FC_INLINE static V square_root(V x) {
    for (int i = 0; i < int(sizeof(V) / sizeof(x[0])); ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
  }
  // a where x has its sign bit set.
  template <class V>
  FC_INLINE static V if_negative(V x, V a, V otherwise) {
    typedef std::int32_t Bits __attribute__((vector_size(sizeof(V))));
    return (Bits)x < 0 ? a : otherwise;
  }
  // The first n floats, zeros after them; and back, the rest of memory left alone.
  template <class V>
  FC_INLINE static void load_first(const float* p, int n, V& x) {
    x = V{};
    for (int i = 0; i < n; ++i) x[i] = p[i];
  }
  template <class V>
  FC_INLINE static void store_first(float* p, int n, V x) {
    for (int i = 0; i < n; ++i) p[i] = x[i];
  }
  // The products of the lower halves of lanes of 64 bits.
  template <class V>
  FC_INLINE static V low_product(V a, V b) {
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
  }

  // Of each lane of 32 bits, acc += the products of the two bfloat16 of x and w.
#if defined(FASTCELLS_DOT16)  // a test runs the code of processors that have it
  static constexpr bool kHasDot16 = true;
#else
  static constexpr bool kHasDot16 = false;
#endif
  template <class V, class W>
  FC_INLINE static void dot16(V& acc, W x, W w) {
    acc = (V)(x & 0xFFFF0000u) * (V)(w & 0xFFFF0000u) + acc;
    acc = (V)(x << 16) * (V)(w << 16) + acc;
  }
  // acc += the products of the four bytes, x without a sign and w with one.
  static constexpr bool kHasDot8 = false;
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    FC_UNROLL
    for (int byte = 0; byte < 4; ++byte) {
      acc += (N)(x >> 8 * byte & 0xFFu) * ((N)(w << (24 - 8 * byte)) >> 24);
    }
  }
  // float16 as 16 bits a lane; rounded to the nearest, ties to even.
  template <class V, class H>
  FC_INLINE static V from_half(H halves) {
    typedef std::uint32_t W __attribute__((vector_size(sizeof(V))));
    const W bits = __builtin_convertvector(halves, W), finite = (bits & 0x7FFFu) << 13;
    // The exponent's bias is 112 more; a product, so that subnormal numbers become normal.
    const W scaled = (W)((V)finite * 0x1p112f);
    const W value = (bits & 0x7C00u) == 0x7C00u ? finite | 0x7F800000u : scaled;
    return (V)(value | (bits & 0x8000u) << 16);
  }
  template <class H, class V>
  FC_INLINE static H to_half(V x) {
    typedef std::uint32_t W __attribute__((vector_size(sizeof(V))));
    const W bits = (W)x, sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    // Normal: rounded where they lie. Subnormal: the sum with 1/2 rounds to units of 2^-24.
    const W normal = (size + 0xFFFu + (size >> 13 & 1u) - (112u << 23)) >> 13;
    const W subnormal = (W)((V)size + 0.5f) - 0x3F000000u;
    W half = size < (113u << 23) ? subnormal : normal;
    half = size >= 0x47800000u - 0x1000u ? W{} + 0x7C00u : half;
    half = size > 0x7F800000u ? (size >> 13 & 0x3FFu) | 0x7E00u : half;
    return __builtin_convertvector(half | sign, H);
  }
};

}  // namespace
}  // namespace fastcells
