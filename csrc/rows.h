// Which steps of a batch row exist, and between which of them no state may pass. Torch-free.
//
// A row's steps are 0 .. length - 1; the reverse direction runs from length - 1 to 0. A reset at
// step t is a boundary between t - 1 and t for both directions: the forward direction starts t
// from zero states, the reverse direction starts t - 1 from them. At t = 0 it cuts off h_0 and c_0
// of the forward direction. Steps past the end leave the state alone, and so does a reset there.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace fastcells {

struct Rows {
  const std::int64_t* lengths;  // [B], or nullptr: every row has T steps
  const bool* resets;           // [T, B], or nullptr: none
  std::int64_t T, B;
  bool reverse;

  FC_HD std::int64_t length(std::int64_t b) const { return lengths ? lengths[b] : T; }
  FC_HD bool exists(std::int64_t t, std::int64_t b) const { return t < length(b); }
  FC_HD std::int64_t previous(std::int64_t t) const { return reverse ? t + 1 : t - 1; }
  FC_HD bool is_first(std::int64_t t, std::int64_t b) const {
    return t == (reverse ? length(b) - 1 : 0);
  }
  // No state passes from step t of row b to the step processed after it.
  FC_HD bool cut_after(std::int64_t t, std::int64_t b) const {
    const std::int64_t boundary = reverse ? t : t + 1;
    return resets && boundary > 0 && boundary < length(b) && resets[boundary * B + b];
  }
  // The initial states do not reach the first step of row b.
  FC_HD bool cut_initial(std::int64_t b) const {
    return resets && !reverse && length(b) > 0 && resets[b];
  }
};

}  // namespace fastcells
