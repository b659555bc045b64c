// AVX512 and its products of bfloat16 (AVX512-BF16), which flush subnormal numbers. Included in
// front of every other header.
#pragma once
#define FASTCELLS_MORE_INSTRUCTIONS
#include "cpu/simd/avx512.h"

namespace fastcells {
namespace {

struct Instructions : Avx512 {
  static constexpr const char* kName = "avx512_bf16";
  static constexpr bool kHasDot16 = true;
  template <class W>
  FC_INLINE static void dot16(__m512& acc, W x, W w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
};

}  // namespace
}  // namespace fastcells
