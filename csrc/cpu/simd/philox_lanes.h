// Philox for the lanes of a panel: the same words as math/philox.h, several at once.
#pragma once
#include "math/philox.h"
#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

// A vector of 64-bit lanes.
struct WideWords {
  static constexpr int kLanes = kVectorBytes / 8;
  typedef std::uint64_t Native __attribute__((vector_size(kVectorBytes)));
  Native v;

  FC_INLINE WideWords() = default;
  FC_INLINE explicit WideWords(Native native) : v(native) {}
  FC_INLINE explicit WideWords(std::uint32_t word) : v(std::uint64_t(word) - Native{}) {}
  FC_INLINE friend WideWords operator^(WideWords a, WideWords b) { return WideWords(a.v ^ b.v); }
  FC_INLINE friend WideWords operator>>(WideWords a, int bits) { return WideWords(a.v >> bits); }
  FC_INLINE friend WideWords low_product(WideWords a, WideWords b) {
    return WideWords(Instructions::low_product(a.v, b.v));
  }
};

// word[k][lane]: word k at counter (group, first + lane, head, 0).
template <int P>
FC_INLINE void philox_lanes(std::uint64_t seed, std::uint32_t group, std::uint32_t first,
                            std::uint32_t head, std::uint32_t (&word)[4][P]) {
  constexpr int L = WideWords::kLanes;
  static_assert(P % L == 0);
  for (int lane = 0; lane < P; lane += L) {
    WideWords c[4] = {WideWords(group), WideWords(0u), WideWords(head), WideWords(0u)};
    FC_UNROLL
    for (int l = 0; l < L; ++l) c[1].v[l] = first + std::uint32_t(lane + l);
    Philox::rounds(seed, c);
    FC_UNROLL
    for (int k = 0; k < 4; ++k) {
      FC_UNROLL
      for (int l = 0; l < L; ++l) word[k][lane + l] = std::uint32_t(c[k].v[l]);
    }
  }
}

}  // namespace
}  // namespace fastcells
