// The instructions of AVX512 (F, BW, DQ, VL): vectors of 64 bytes, 32 registers, masks. Included in
// front of every other header: the instruction set is switched on here and not by flags of the
// build, so that what is compiled for it is a file's own (cpu/simd/vector.h).
#pragma once
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")
#include <immintrin.h>

#include <cstdint>

#include "host_device.h"

namespace fastcells {
namespace {

struct Avx512 {
  static constexpr const char* kName = "avx512";
  static constexpr int kVectorBytes = 64, kRegisters = 32;

  // acc += x * w. Written as the instruction: left to itself the compiler lets the sum wander from
  // register to register and spills.
  FC_INLINE static void multiply_add(__m512& acc, __m512 x, __m512 w) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
  FC_INLINE static void multiply_add(__m512d& acc, __m512d x, __m512d w) {
    asm("vfmadd231pd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
  // 1 / x for 1 <= x < 2^126, within 2 ulp.
  FC_INLINE static __m512 reciprocal(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return r * (2.0f - x * r);
  }
  // The larger of the two; where x is NaN, x: the second operand of the instruction.
  FC_INLINE static __m512 larger(__m512 limit, __m512 x) {
    asm("vmaxps %2, %1, %0" : "=v"(x) : "v"(limit), "v"(x));
    return x;
  }
  FC_INLINE static __m512d larger(__m512d limit, __m512d x) { return limit > x ? limit : x; }
  FC_INLINE static __m512 square_root(__m512 x) {
    asm("vsqrtps %1, %0" : "=v"(x) : "v"(x));
    return x;
  }
  FC_INLINE static __m512d square_root(__m512d x) {
    asm("vsqrtpd %1, %0" : "=v"(x) : "v"(x));
    return x;
  }
  // a where x has its sign bit set.
  FC_INLINE static __m512 if_negative(__m512 x, __m512 a, __m512 otherwise) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)x), otherwise, a);
  }
  // The first n floats, zeros after them; and back, the rest of memory left alone.
  FC_INLINE static __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
  FC_INLINE static void load_first(const float* p, int n, __m512& x) {
    x = _mm512_maskz_loadu_ps(first_lanes(n), p);
  }
  FC_INLINE static void store_first(float* p, int n, __m512 x) {
    _mm512_mask_storeu_ps(p, first_lanes(n), x);
  }
  // The products of the lower halves of lanes of 64 bits.
  template <class V>
  FC_INLINE static V low_product(V a, V b) {
    return (V)_mm512_mul_epu32((__m512i)a, (__m512i)b);
  }

  // float16 as 16 bits a lane; rounded to the nearest, ties to even. With a mask, as the plain ones
  // of gcc 12 warn of what they leave undefined.
  static constexpr __mmask16 kAllLanes = 0xFFFF;
  template <class V, class H>
  FC_INLINE static V from_half(H halves) {
    return _mm512_maskz_cvtph_ps(kAllLanes, (__m256i)halves);
  }
  template <class H, class V>
  FC_INLINE static H to_half(V x) {
    return (H)_mm512_maskz_cvtps_ph(kAllLanes, x, _MM_FROUND_TO_NEAREST_INT);
  }

  // Of each lane of 32 bits, acc += the products of the two bfloat16 of x and w.
  static constexpr bool kHasDot16 = false;
  template <class W>
  FC_INLINE static void dot16(__m512& acc, W x, W w) {
    multiply_add(acc, (__m512)(x & 0xFFFF0000u), (__m512)(w & 0xFFFF0000u));
    multiply_add(acc, (__m512)(x << 16), (__m512)(w << 16));
  }
  // acc += the products of the four bytes, x without a sign and w with one: those of even and of
  // odd places as pairs of 16 bits.
  static constexpr bool kHasDot8 = false;
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    const __m512i even = _mm512_set1_epi32(0x00FF00FF), xs = (__m512i)x, ws = (__m512i)w;
    const __m512i low = _mm512_madd_epi16(_mm512_and_si512(xs, even),
                                          _mm512_srai_epi16(_mm512_slli_epi16(ws, 8), 8));
    const __m512i high = _mm512_madd_epi16(_mm512_srli_epi16(xs, 8), _mm512_srai_epi16(ws, 8));
    acc += (N)low + (N)high;
  }
};

#if !defined(FASTCELLS_MORE_INSTRUCTIONS)  // a set above this one begins with it
using Instructions = Avx512;
#endif

}  // namespace
}  // namespace fastcells
