// AVX2 and its products of bytes (AVX-VNNI). Included in front of every other header.
#pragma once
#define FASTCELLS_MORE_INSTRUCTIONS
#include "cpu/simd/avx2.h"

namespace fastcells {
namespace {

struct Instructions : Avx2 {
  static constexpr const char* kName = "avx2_vnni";
  static constexpr bool kHasDot8 = true;
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
  }
};

}  // namespace
}  // namespace fastcells
