// The instructions of every processor: vectors of 16 bytes, and what other instruction sets have a
// name for as plain C++. Included in front of every other header (cpu/simd/vector.h).
#pragma once
#include <cstdint>

namespace fastcells {
namespace {

#define FC_INLINE inline __attribute__((always_inline))

struct Instructions {
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
};

}  // namespace
}  // namespace fastcells
