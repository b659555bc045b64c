// Eight units of two rows, from the lanes that have them to lanes with 16 bytes of a row.
#pragma once
#include <cstring>
#include <type_traits>

#include "cuda/ptx.cuh"

namespace fastcells {

// Elements of storage as bits.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;

template <class T>
FC_DEVICE Bits<T> bits_of(T x) {
  Bits<T> result;
  memcpy(&result, &x, sizeof result);
  return result;
}
template <class T>
FC_DEVICE T of_bits(Bits<T> bits) {
  T result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

// What a lane has after gather(): 16 bytes of row `row` of its tile, from unit `first_unit` of the
// group on, as `copies` lanes have it, of which this one is number `copy`.
template <class T>
struct Gathered {
  static constexpr int kCopies = sizeof(T) == 2 ? 4 : 2;
  uint4 bytes;
  int row, first_unit, copy;
};

template <class T>
FC_DEVICE Gathered<T> gather(int lane, T first, T second) {
  const bool is_second = lane >> 2 & 1, is_upper = lane >> 3 & 1, is_last = lane >> 4 & 1;
  const unsigned kept = bits_of(is_second ? second : first);
  const unsigned other = __shfl_xor_sync(~0u, unsigned(bits_of(is_second ? first : second)), 4);
  const unsigned even = is_second ? other : kept, odd = is_second ? kept : other;
  const int row = lane % 4 * 2 + is_second;
  if constexpr (sizeof(T) == 2) {
    const unsigned word = even | odd << 16, word_2 = __shfl_xor_sync(~0u, word, 8);
    const unsigned low = is_upper ? word_2 : word, high = is_upper ? word : word_2;
    const unsigned low_2 = __shfl_xor_sync(~0u, low, 16), high_2 = __shfl_xor_sync(~0u, high, 16);
    const uint4 bytes = is_last ? uint4{low_2, high_2, low, high} : uint4{low, high, low_2, high_2};
    return {bytes, row, 0, lane >> 3};
  } else {
    const unsigned even_2 = __shfl_xor_sync(~0u, even, 8), odd_2 = __shfl_xor_sync(~0u, odd, 8);
    const uint4 bytes =
        is_upper ? uint4{even_2, odd_2, even, odd} : uint4{even, odd, even_2, odd_2};
    return {bytes, row, is_last ? 4 : 0, lane >> 3 & 1};
  }
}

}  // namespace fastcells
