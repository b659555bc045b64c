// A hash by which a pack knows whether its weights are what they were: as fast as memory is read.
#pragma once
#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

typedef std::uint64_t Hashes __attribute__((vector_size(kVectorBytes)));

constexpr std::uint64_t kHashFactor = 0x9e3779b1;  // odd, and no longer than a word's half

FC_INLINE Hashes times_factor(Hashes x) {
  const Hashes factor = kHashFactor - Hashes{};
  return Instructions::low_product(x, factor) + (Instructions::low_product(x >> 32, factor) << 32);
}

// A bijection of the state, so that one changed word always changes the result. The product moves a
// change towards the upper bits, the shift brings it down again: a sign, too, reaches all that
// follow.
template <class X>
FC_INLINE X mixed(X state, X word) {
  X product;
  if constexpr (sizeof(X) == sizeof(Hashes)) {
    product = times_factor(state ^ word);
  } else {
    product = (state ^ word) * kHashFactor;
  }
  return product ^ (product >> 29);
}

std::uint64_t hash_in_lanes(const void* memory, std::int64_t count) {
  constexpr int kChains = 8;  // a mixture takes about eight cycles, and one starts every two
  constexpr std::int64_t kPiece = kChains * kVectorBytes;
  const auto bytes = static_cast<const char*>(memory);
  Hashes chains[kChains];
  for (int j = 0; j < kChains; ++j) chains[j] = Hashes{} + std::uint64_t(j);
  std::int64_t i = 0;
  for (; i + kPiece <= count; i += kPiece) {
    FC_UNROLL
    for (int j = 0; j < kChains; ++j) {
      Hashes word;
      std::memcpy(&word, bytes + i + j * kVectorBytes, sizeof word);
      chains[j] = mixed(chains[j], word);
    }
  }
  std::uint64_t hash = std::uint64_t(count);
  while (i < count) {
    std::uint64_t word = 0;
    const std::int64_t n = count - i < 8 ? count - i : 8;
    std::memcpy(&word, bytes + i, std::size_t(n));
    hash = mixed(hash, word), i += n;
  }
  for (const Hashes& chain : chains) {
    for (unsigned lane = 0; lane < kVectorBytes / sizeof(hash); ++lane) {
      hash = mixed(hash, std::uint64_t(chain[lane]));
    }
  }
  return hash;
}

}  // namespace
}  // namespace fastcells
