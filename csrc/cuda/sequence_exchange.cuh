// How a warp's results reach all blocks of its cluster: 16 bytes a store, counted by an mbarrier.
//
// A lane of a 16-bit warp product holds unit l / 4 of a group of eight, for rows 2 * (l % 4) and
// the one behind it.
#pragma once
#include "cuda/ptx.cuh"
#include "math/activations.h"

namespace fastcells {

constexpr int kWarpLanes = 32, kGroupUnits = 8, kTileRows = 8, kStepK = 16;
constexpr int kRowPadding = 8;  // elements: eight rows then begin in eight different banks

// Steps over `columns` of K whose weights are not in registers.
FC_HD int steps_past(int columns, int cached) {
  return columns / kStepK > cached ? columns / kStepK - cached : 0;
}

// 16 bits of storage.
template <class T>
FC_DEVICE unsigned bits_of(T x) {
  static_assert(sizeof(T) == 2);
  std::uint16_t result;
  memcpy(&result, &x, sizeof result);
  return result;
}

// The row of a tile that a lane has after gather_group().
FC_DEVICE int gathered_row(int lane) { return lane % 4 * 2 + (lane >> 2 & 1); }

// The eight units of a group for one row, from each lane's values of its two rows. Four lanes get
// the same.
FC_DEVICE uint4 gather_group(int lane, unsigned first, unsigned second) {
  const bool is_second = lane >> 2 & 1, is_upper = lane >> 3 & 1, is_last = lane >> 4 & 1;
  const unsigned mine = is_second ? second : first;
  const unsigned other = __shfl_xor_sync(~0u, is_second ? first : second, 4);
  const unsigned word = is_second ? other | mine << 16 : mine | other << 16;
  const unsigned word_2 = __shfl_xor_sync(~0u, word, 8);
  const unsigned low = is_upper ? word_2 : word, high = is_upper ? word : word_2;
  const unsigned low_2 = __shfl_xor_sync(~0u, low, 16), high_2 = __shfl_xor_sync(~0u, high, 16);
  return is_last ? uint4{low_2, high_2, low, high} : uint4{low, high, low_2, high_2};
}

// What gather_group() gave, to `where` in every block; each of the four lanes serves other blocks.
template <bool kCluster>
FC_DEVICE void deliver(int lane, const uint4& group, ptx::Shared<std::uint16_t> where,
                       ptx::Shared<ptx::Transactions> full, int blocks) {
  const int quarter = lane >> 3;
  const auto to = ptx::shared_cast<uint4>(where);
  if constexpr (kCluster) {
    for (int peer = quarter; peer < blocks; peer += 4) {
      ptx::store_async(to, group, full, unsigned(peer));
    }
  } else if (quarter == 0) {
    to[0] = group;
  }
}

template <bool kCluster>
FC_DEVICE void synchronize_blocks() {
  if constexpr (kCluster) {
    ptx::cluster_sync();
  } else {
    __syncthreads();
  }
}

}  // namespace fastcells
