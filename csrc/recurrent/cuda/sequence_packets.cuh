// Packets: what the blocks of a grid send each other, with the sign in it that it is there. Readers
// look at the data until it is new: one trip to the L2 after the store arrives, in the place of a
// release, a counter and a read after another.
//
//   an element         its lowest bit is the tag
//   a tile             eight rows, and a ninth for the bits whose place the tags have: 16 bytes for
//                      eight units, two words for the even rows and two for the odd ones, each a
//                      tag (bit 0) and 16 of the bits
//
// Every word of 32 bits has a tag, because no more than a word is sure to arrive as a whole: a
// vector's words are stored and loaded in any order (PTX ISA, "Memory Consistency Model", vector
// data types). Nothing is rounded: the bit comes back to its place, and h, as it is used, is what
// counters would have brought.
//
// One bit is enough of a tag. A word of one of the two buffers is written every other exchange, by
// the same lane, 1 and 0 in turn; before, all is zero, as whoever launches the kernel has set it,
// so that a launch, or the replay of a graph with that memset in it, depends on none before it.
// Whoever waits for a value has read the one before, always from the same lane: coherence lets it
// see that one, the new one or a later one. There is no later one: the word is written again two
// exchanges on, by a warp that has all packets of the exchange between, whose senders sent them
// when they, and after a barrier all who share their units, had read the word. Neither fence nor
// acquire is needed for that. A store that waits, through barriers and packets alike, for what a
// load brought is not seen by that load: it would be a value out of thin air (the same chapter,
// "No-Thin-Air").
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"

namespace fastcells {

// Of the words of a row.
template <class T>
constexpr unsigned kTags = sizeof(T) == 2 ? 0x00010001u : 0x1u;
constexpr unsigned kRestTag = 1;  // of a word of the ninth row

// The tag of the exchange that is number `i` of those sent, 0 or 1.
FC_DEVICE unsigned tag_of(int i) { return (unsigned(i) >> 1 & 1) ^ 1; }

template <class T>
FC_DEVICE bool is_new(const ptx::Packet& p, unsigned tag) {
  const unsigned all = tag * kTags<T>;
  const unsigned row = (p.quad.x ^ all) | (p.quad.y ^ all) | (p.quad.z ^ all) | (p.quad.w ^ all);
  return ((row & kTags<T>) | (((p.rest.x ^ tag) | (p.rest.y ^ tag)) & kRestTag)) == 0;
}

// The lowest bits of a tile of eight units, of which a lane has, as in a product's result, unit l /
// 4 and rows 2 * (l % 4), 2 * (l % 4) + 1. Of two rows, pair j of them: bit 4 * j + k of a word's
// upper 16 is that of the first (word 1: second) element of word k of 16-bit storage, and of unit k
// (word 1: k + 4) of float32.
template <class T>
FC_DEVICE uint4 rest_of_tile(int lane, unsigned first, unsigned second, unsigned tag) {
  const int half = lane >> 4, pair = lane >> 2 & 3, k = lane & 3;
  const int unit = sizeof(T) == 2 ? 2 * k + half : 4 * half + k;
  const unsigned mine = (first & 1) | (second & 1) << 1;
  const unsigned bits = __shfl_sync(~0u, mine, 4 * unit + pair);
  const unsigned even = __ballot_sync(~0u, bits & 1), odd = __ballot_sync(~0u, bits & 2);
  return {even << 16 | tag, (even & 0xffff0000u) | tag, odd << 16 | tag, (odd & 0xffff0000u) | tag};
}

// 16 bytes of row `row` of a tile, every bit in its place; `quad` is their number in the row.
template <class T>
FC_DEVICE uint4 restored(const ptx::Packet& p, int row, int quad) {
  unsigned bits;
  if constexpr (sizeof(T) == 2) {
    bits = p.rest.x >> 16 | (p.rest.y & 0xffff0000u);
  } else {
    bits = (quad % 2 == 0 ? p.rest.x : p.rest.y) >> 16;
  }
  bits >>= row / 2 * 4;
  const auto word = [bits](unsigned tagged, int k) {
    return (tagged & ~kTags<T>) | (bits >> k & kTags<T>);
  };
  return {word(p.quad.x, 0), word(p.quad.y, 1), word(p.quad.z, 2), word(p.quad.w, 3)};
}

}  // namespace fastcells
