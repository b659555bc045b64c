// AVX512 with AMX: products of bfloat16 and of bytes, in vectors and in tiles. Included in front of
// every other header. The instructions are written out, so that the compiler needs no name for
// them.
#pragma once
#define FASTCELLS_MORE_INSTRUCTIONS
#include "cpu/simd/avx512.h"
#include "cpu/simd/tile_configuration.h"

namespace fastcells {
namespace {

struct Instructions : Avx512 {
  static constexpr const char* kName = "amx";
  static constexpr bool kHasDot16 = true, kHasDot8 = true;
  template <class W>
  FC_INLINE static void dot16(__m512& acc, W x, W w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
  template <class N, class W>
  FC_INLINE static void dot8(N& acc, W x, W w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  }
};

// The processor's tiles, a thread's own, by number. Rows lie `stride` bytes apart in memory.
struct Tiles {
  FC_INLINE static void configure(const TileConfiguration& shapes) {
    asm volatile("ldtilecfg %0" ::"m"(shapes));
  }
  FC_INLINE static void release() { asm volatile("tilerelease"); }
  template <int kTile>
  FC_INLINE static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  FC_INLINE static void load(const void* first, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(first), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  FC_INLINE static void store(void* first, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(first), "r"(stride), "i"(kTile) : "memory");
  }
  // sums[i][j] += a[i][k] b[k][j], each element a pair of bfloat16, subnormal numbers zero; or four
  // bytes, those of a without a sign.
  template <int kSums, int kA, int kB>
  FC_INLINE static void add_pairs() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
  }
  template <int kSums, int kA, int kB>
  FC_INLINE static void add_quads() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace fastcells
