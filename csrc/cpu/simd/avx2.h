// The instructions of AVX2 and FMA: vectors of 32 bytes. Included in front of every other header:
// the instruction set is switched on here and not by flags of the build, so that what is compiled
// for it is a file's own (cpu/simd/vector.h).
#pragma once
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>

#include <cstdint>

#include "host_device.h"

namespace fastcells {
namespace {

struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr int kVectorBytes = 32, kRegisters = 16;

  // acc += x * w. Written as the instruction: left to itself the compiler lets the sum wander from
  // register to register and spills.
  FC_INLINE static void multiply_add(__m256& acc, __m256 x, __m256 w) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
  FC_INLINE static void multiply_add(__m256d& acc, __m256d x, __m256d w) {
    asm("vfmadd231pd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
  // 1 / x for 1 <= x < 2^126, within 2 ulp.
  FC_INLINE static __m256 reciprocal(__m256 x) {
    const __m256 r = _mm256_rcp_ps(x);
    return r * (2.0f - x * r);
  }
  // The larger of the two; where x is NaN, x: the second operand of the instruction.
  FC_INLINE static __m256 larger(__m256 limit, __m256 x) {
    asm("vmaxps %2, %1, %0" : "=v"(x) : "v"(limit), "v"(x));
    return x;
  }
  FC_INLINE static __m256d larger(__m256d limit, __m256d x) { return limit > x ? limit : x; }
  FC_INLINE static __m256 square_root(__m256 x) {
    asm("vsqrtps %1, %0" : "=x"(x) : "x"(x));
    return x;
  }
  FC_INLINE static __m256d square_root(__m256d x) {
    asm("vsqrtpd %1, %0" : "=x"(x) : "x"(x));
    return x;
  }
  // a where x has its sign bit set.
  FC_INLINE static __m256 if_negative(__m256 x, __m256 a, __m256 otherwise) {
    return _mm256_blendv_ps(otherwise, a, x);
  }
  // The first n floats, zeros after them; and back, the rest of memory left alone.
  FC_INLINE static __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FC_INLINE static void load_first(const float* p, int n, __m256& x) {
    x = _mm256_maskload_ps(p, first_lanes(n));
  }
  FC_INLINE static void store_first(float* p, int n, __m256 x) {
    _mm256_maskstore_ps(p, first_lanes(n), x);
  }
  // The products of the lower halves of lanes of 64 bits.
  template <class V>
  FC_INLINE static V low_product(V a, V b) {
    return (V)_mm256_mul_epu32((__m256i)a, (__m256i)b);
  }

  // float16 as 16 bits a lane; rounded to the nearest, ties to even.
  template <class V, class H>
  FC_INLINE static V from_half(H halves) {
    return _mm256_cvtph_ps((__m128i)halves);
  }
  template <class H, class V>
  FC_INLINE static H to_half(V x) {
    return (H)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  }

  // Of each lane of 32 bits, acc += the products of the two bfloat16 of x and w.
  static constexpr bool kHasDot16 = false;
  template <class W>
  FC_INLINE static void dot16(__m256& acc, W x, W w) {
    multiply_add(acc, (__m256)(x & 0xFFFF0000u), (__m256)(w & 0xFFFF0000u));
    multiply_add(acc, (__m256)(x << 16), (__m256)(w << 16));
  }
  // acc += the products of the four bytes, x without a sign and w with one: those of even and of
  // odd places as pairs of 16 bits.
  static constexpr bool kHasDot8 = false;
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    const __m256i even = _mm256_set1_epi32(0x00FF00FF), xs = (__m256i)x, ws = (__m256i)w;
    const __m256i low = _mm256_madd_epi16(_mm256_and_si256(xs, even),
                                          _mm256_srai_epi16(_mm256_slli_epi16(ws, 8), 8));
    const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16(xs, 8), _mm256_srai_epi16(ws, 8));
    acc += (N)low + (N)high;
  }
};

#if !defined(FASTCELLS_MORE_INSTRUCTIONS)  // a set above this one begins with it
using Instructions = Avx2;
#endif

}  // namespace
}  // namespace fastcells
