// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): four random words from a counter and a
// key, on host and device. Torch-free.
//
// Dropout keeps the weight of query i and key j of head n in batch row b iff word j % 4 at counter
// (j / 4, i, b * N + n, 0) is at least p * 2^32: a matter of position alone, whatever the tiles.
#pragma once
#include <cstdint>

#include "math/activations.h"

namespace fastcells {

struct Philox {
  static constexpr std::uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  static constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  static constexpr int kRounds = 10;

  FC_HD static void words(std::uint64_t seed, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                          std::uint32_t (&word)[4]) {
    std::uint32_t c3 = 0, key0 = std::uint32_t(seed), key1 = std::uint32_t(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t a = std::uint64_t(kMultiply0) * c0, b = std::uint64_t(kMultiply1) * c2;
      c0 = std::uint32_t(b >> 32) ^ c1 ^ key0;
      c1 = std::uint32_t(b);
      c2 = std::uint32_t(a >> 32) ^ c3 ^ key1;
      c3 = std::uint32_t(a);
      key0 += kWeyl0, key1 += kWeyl1;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }
};

// A word below this is dropped. p = 1 drops all: the threshold then has no 32-bit value.
FC_HD std::uint64_t dropout_threshold(double p) { return std::uint64_t(::ceil(p * 4294967296.0)); }

}  // namespace fastcells
