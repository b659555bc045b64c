// What both ways through a layer share: which units and rows a lane has, where a block's arrays
// lie, and how results reach all blocks of a cluster, 16 bytes a store, counted by an mbarrier.
//
// A lane of a 16-bit warp product holds unit l / 4 of a group of eight, for rows 2 * (l % 4) and
// the one behind it.
#pragma once
#include "cuda/plan.h"
#include "cuda/ptx.cuh"
#include "recurrent/rows.h"

namespace fastcells {

using cuda::kGroupUnits, cuda::kRowPadding, cuda::kStepK, cuda::kTileRows, cuda::kWarpLanes;
using cuda::SequenceShared;

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

// kWarpUnits units a warp, kTiles m16 tiles; kFan columns over K for each unit of the cluster.
template <class Args, class Direction, class T, int kWarpUnits, int kTiles, int kFan,
          int kBatchTiles, int kCached, bool kCluster>
class SequenceBlock {
  static_assert(kCached % 2 == 0 && sizeof(T) == 2);

 protected:
  FC_DEVICE explicit SequenceBlock(const Args& args)
      : a_(args), d_(args.directions[blockIdx.y]), lane_(int(threadIdx.x) % kWarpLanes) {
    rows_ = Rows{a_.lengths, a_.resets, a_.T, a_.B, d_.reverse};
    const int warp = int(threadIdx.x) / kWarpLanes, warps = int(blockDim.x) / kWarpLanes;
    blocks_ = kCluster ? int(ptx::cluster_size()) : 1;
    const int rank = kCluster ? int(ptx::cluster_rank()) : 0, units = warps * kWarpUnits;
    units_ = units * blocks_, columns_ = kFan * units_;
    first_unit_ = rank * units + warp * kWarpUnits;
    first_row_ = std::int64_t(int(blockIdx.x) / blocks_) * kBatchTiles * kTileRows;
    const auto shared = SequenceShared::of(warps, kTiles, columns_, kBatchTiles, kCached);
    const int own = cuda::steps_past(columns_, kCached) * kTiles * kWarpLanes;
    weights_ = ptx::shared_array<uint4>(0, std::int64_t(warps) * own) + warp * own;
    exchange_ = ptx::shared_array<std::uint16_t>(shared.exchange, 2 * buffer_elements());
    full_ = ptx::shared_array<ptx::Transactions>(shared.barriers, 2);
  }

  // Of this lane's accumulators: the unit of group g, and the row of tile n, column e.
  FC_DEVICE std::int64_t unit(int g) const { return first_unit_ + g * kGroupUnits + lane_ / 4; }
  FC_DEVICE std::int64_t row(int n, int e) const {
    return first_row_ + n * kTileRows + lane_ % 4 * 2 + e;
  }
  FC_DEVICE bool is_ours(int n, int g, int e) const { return row(n, e) < a_.B && unit(g) < a_.H; }
  // f(n, g, e) for all that a lane has, in `groups` groups of units.
  template <int groups, class F>
  FC_DEVICE static void for_each(const F& f) {
    FC_UNROLL
    for (int n = 0; n < kBatchTiles; ++n) {
      FC_UNROLL
      for (int g = 0; g < groups; ++g) {
        FC_UNROLL
        for (int e = 0; e < 2; ++e) f(n, g, e);
      }
    }
  }
  FC_DEVICE float of_row(const void* states, std::int64_t b, std::int64_t u) const {
    return states ? float(static_cast<const T*>(states)[b * a_.H + u]) : 0.0f;
  }

  // ---- the exchange: buffer 0 or 1, [rows][columns + padding] ----

  FC_DEVICE int buffer_elements() const {
    return kBatchTiles * kTileRows * (columns_ + kRowPadding);
  }
  FC_DEVICE ptx::Shared<std::uint16_t> buffer(int number) const {
    return exchange_ + number * buffer_elements();
  }
  // Once, before anything is sent: all blocks are here then, and see each other's memory.
  FC_DEVICE void open_exchange() const {
    if constexpr (kCluster) {
      if (threadIdx.x == 0) {
        ptx::transactions_init(full_, 1);
        ptx::transactions_init(full_ + 1, 1);
      }
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }
  // Once a step, before the wait for it.
  FC_DEVICE void expect(int number) const {
    if (kCluster && threadIdx.x == 0) {
      constexpr int kBytes = kBatchTiles * kTileRows * 2;
      ptx::arrive_expecting(full_ + number, unsigned(kBytes * columns_));
    }
  }
  // The lanes' values of one group of units, for two rows each, to a column of every block.
  FC_DEVICE void send(int number, int n, int column, T first, T second) const {
    const uint4 group = gather_group(lane_, bits_of(first), bits_of(second));
    const int r = n * kTileRows + gathered_row(lane_), quarter = lane_ >> 3;
    const auto to = ptx::shared_cast<uint4>(buffer(number) + r * (columns_ + kRowPadding) + column);
    if constexpr (kCluster) {  // four lanes have the same: each serves other blocks
      for (int peer = quarter; peer < blocks_; peer += 4) {
        ptx::store_async(to, group, full_ + number, unsigned(peer));
      }
    } else if (quarter == 0) {
      to[0] = group;
    }
  }
  // Until all blocks' values are there; `round` counts the uses of the buffer.
  FC_DEVICE void wait_for(int number, std::int64_t round) const {
    if constexpr (kCluster) {
      ptx::wait(full_ + number, unsigned(round & 1));
    } else {
      __syncthreads();
    }
  }
  // Once, at the end: no block leaves while others may still send to it.
  FC_DEVICE void close_exchange() const {
    if constexpr (kCluster) ptx::cluster_sync();
  }

  const Args& a_;
  const Direction& d_;
  const int lane_;
  Rows rows_;
  int blocks_, units_, columns_;  // of the cluster
  int first_unit_;                // of this warp
  std::int64_t first_row_;
  ptx::Shared<uint4> weights_;  // [steps over K past kCached][tiles][lanes]: this warp's

 private:
  ptx::Shared<std::uint16_t> exchange_;
  ptx::Shared<ptx::Transactions> full_;
};

}  // namespace fastcells
