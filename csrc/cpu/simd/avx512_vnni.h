// AVX512 and its products of bytes (AVX512-VNNI). Included in front of every other header.
#pragma once
#define FASTCELLS_MORE_INSTRUCTIONS
#include "cpu/simd/avx512.h"

namespace fastcells {
namespace {

struct Instructions : Avx512 {
  static constexpr const char* kName = "avx512_vnni";
  static constexpr bool kHasDot8 = true;
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
};

}  // namespace
}  // namespace fastcells
