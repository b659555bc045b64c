// What an attention call says of a single position: which keys a query sees, what is added to
// their score, what dropout keeps. For kernels whose thread looks at one query and key at a time;
// on host and device. Torch-free.
#pragma once
#include <limits>

#include "attention/args.h"
#include "math/philox.h"

namespace fastcells {

// Keys first .. last - 1.
struct KeyRange {
  std::int64_t first, last;
};

// Keys of batch row b. A length out of range is refused before a kernel runs (problem.cpp: on a GPU
// by an assertion on the device, as nothing may wait for its value there); should the assertion not
// stop the call, nothing is read past the keys.
FC_HD std::int64_t length_of(const AttentionArgs& a, std::int64_t b) {
  if (!a.key_lengths) return a.Tk;
  const std::int64_t length = a.key_lengths[b];
  return length < 0 ? 0 : length < a.Tk ? length : a.Tk;
}

// The keys below `length` from the first one of query `low` to the last one of query `high`, as far
// as the window goes: one rule for every device.
FC_HD KeyRange keys_between(const AttentionArgs& a, std::int64_t length, std::int64_t low,
                            std::int64_t high) {
  std::int64_t first = 0, last = length;
  if (a.left >= 0 && low + a.offset - a.left > first) first = low + a.offset - a.left;
  if (a.right >= 0 && high + 1 + a.offset + a.right < last) last = high + 1 + a.offset + a.right;
  return {first, last > first ? last : first};
}
// Of queries first .. last - 1: the keys that some of them see, and those that all of them see.
FC_HD KeyRange seen_by_some(const AttentionArgs& a, std::int64_t length, std::int64_t first,
                            std::int64_t last) {
  return keys_between(a, length, first, last - 1);
}
FC_HD KeyRange seen_by_all(const AttentionArgs& a, std::int64_t length, std::int64_t first,
                           std::int64_t last) {
  return keys_between(a, length, last - 1, first);
}

template <class T, class A>
class AttentionPositions {
 public:
  FC_HD AttentionPositions(const AttentionArgs& args, std::int64_t b, std::int64_t n)
      : a_(args), b_(b), n_(n), length_(length_of(args, b)) {}

  FC_HD std::int64_t length() const { return length_; }
  // Number of the head, of all batch rows.
  FC_HD std::int64_t slice() const { return b_ * a_.N + n_; }
  FC_HD KeyRange seen_by_some(std::int64_t first, std::int64_t last) const {
    return fastcells::seen_by_some(a_, length_, first, last);
  }
  FC_HD KeyRange seen_by_all(std::int64_t first, std::int64_t last) const {
    return fastcells::seen_by_all(a_, length_, first, last);
  }

  // The score of query i and key j, which the window and the lengths let through, with its mask:
  // minus infinity where the mask hides the key, whatever the score.
  FC_HD A masked(A score, std::int64_t i, std::int64_t j) const {
    return masked_at(score, mask_at(i, j));
  }
  // The mask's element of query i and key j, and the score with this element.
  FC_HD std::int64_t mask_at(std::int64_t i, std::int64_t j) const {
    return b_ * a_.mask.batch + n_ * a_.mask.head + i * a_.mask.query + j * a_.mask.key;
  }
  FC_HD A masked_at(A score, std::int64_t at) const {
    if (a_.mask.kind == AttentionMask::Kind::kNone) return score;
    constexpr A kNothing = -std::numeric_limits<A>::infinity();
    if (a_.mask.kind == AttentionMask::Kind::kBool) {
      return static_cast<const bool*>(a_.mask.data)[at] ? score : kNothing;
    }
    const A bias = a_.mask.kind == AttentionMask::Kind::kAddedWide
                       ? static_cast<const A*>(a_.mask.data)[at]
                       : static_cast<A>(static_cast<const T*>(a_.mask.data)[at]);
    return bias == kNothing ? kNothing : score + bias;
  }

  // Dropout's factors, keep / (1 - p), of the keys 4 * group .. 4 * group + 3.
  FC_HD void dropout_factors(std::int64_t i, std::int64_t group, A (&factor)[4]) const {
    std::uint32_t word[4];
    Philox::words(static_cast<std::uint64_t>(a_.dropout.seed[0]), static_cast<std::uint32_t>(group),
                  static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(b_ * a_.N + n_), word);
    for (int k = 0; k < 4; ++k) {
      factor[k] = word[k] >= a_.dropout.threshold ? static_cast<A>(a_.dropout.keep_scale) : A(0);
    }
  }

 private:
  const AttentionArgs& a_;
  const std::int64_t b_, n_, length_;
};

}  // namespace fastcells
