// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): four random words from a counter and a
// key, on host and device. Torch-free.
//
// What is dropped is a matter of position alone, whatever the tiles. Attention keeps the weight of
// query i and key j of head n in batch row b iff word j % 4 at counter (j / 4, i, b * N + n, 0) is
// at least p * 2^32; a recurrent layer's masks: recurrent/rowwise/noise.h.
#pragma once
#include <cstdint>

#include "math/activations.h"

namespace fastcells {

// The product of the lower halves, all 64 bits of it.
FC_HD std::uint64_t low_product(std::uint64_t a, std::uint64_t b) {
  return std::uint64_t(std::uint32_t(a)) * std::uint32_t(b);
}

struct Philox {
  static constexpr std::uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  static constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  static constexpr int kRounds = 10;

  // The counter becomes four words. W is 64 bits, or a vector of such, whose upper halves are not
  // looked at, and hold nothing that counts at the end.
  template <class W>
  FC_HD static void rounds(std::uint64_t seed, W (&c)[4]) {
    std::uint32_t key0 = std::uint32_t(seed), key1 = std::uint32_t(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
      const W a = low_product(c[0], W(kMultiply0)), b = low_product(c[2], W(kMultiply1));
      c[0] = (b >> 32) ^ c[1] ^ W(key0);
      c[2] = (a >> 32) ^ c[3] ^ W(key1);
      c[1] = b, c[3] = a;
      key0 += kWeyl0, key1 += kWeyl1;
    }
  }

  FC_HD static void words(std::uint64_t seed, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                          std::uint32_t (&word)[4]) {
    std::uint64_t c[4] = {c0, c1, c2, 0};
    rounds(seed, c);
    for (int i = 0; i < 4; ++i) word[i] = std::uint32_t(c[i]);
  }
};

// A word below this is dropped. p = 1 drops all: the threshold then has no 32-bit value.
FC_HD std::uint64_t dropout_threshold(double p) { return std::uint64_t(::ceil(p * 4294967296.0)); }

}  // namespace fastcells
