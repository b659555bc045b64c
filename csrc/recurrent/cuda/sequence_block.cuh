// What both ways through a layer share: which units and rows a lane has, where a block's arrays
// lie, and how results reach all blocks, 16 bytes a store:
//
//   block    into its own shared memory; a barrier of the block
//   cluster  by st.async into the shared memory of every block, counted by an mbarrier
//   grid     into global memory, where the L2 has it; a flag for each warp that has units
//
// Exchanges are numbered 0, 1, 2, ..., and take turns in two buffers.
//
// A block has unit_warps x parts warps (threadIdx.y is the part): those of the first part own
// units, the others help with their product. A lane of a warp's product holds unit l / 4 of a group
// of eight, for rows 2 * (l % 4) and the one behind it.
#pragma once
#include <type_traits>

#include "cuda/ptx.cuh"
#include "recurrent/cuda/plan.h"
#include "recurrent/rows.h"

namespace fastcells {

using cuda::kGroupUnits, cuda::kStepBytes, cuda::kTileRows, cuda::kWarpLanes;
using cuda::SequenceShape, cuda::SequenceShared, cuda::Tier;

// Elements of storage as bits.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;

template <class T>
FC_DEVICE Bits<T> bits_of(T x) {
  Bits<T> result;
  memcpy(&result, &x, sizeof result);
  return result;
}

// ---- eight units of two rows, from the lanes that have them to lanes with 16 bytes of a row ----

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

// How a kernel is made: kUnits units a warp, kTiles m16 tiles, kFan columns over K for each unit,
// kBatchTiles tiles of eight rows a slice, kStates states of the cell.
template <class T_, Tier kTier_, int kUnits_, int kTiles_, int kFan_, int kStates_,
          int kBatchTiles_, int kCached_>
struct SequenceTraits {
  using T = T_;
  static constexpr Tier kTier = kTier_;
  static constexpr bool kCluster = kTier == Tier::kCluster, kGrid = kTier == Tier::kGrid;
  static constexpr int kUnits = kUnits_, kTiles = kTiles_, kFan = kFan_, kStates = kStates_;
  static constexpr int kGroups = kUnits / kGroupUnits, kBatchTiles = kBatchTiles_;
  static constexpr int kCached = kCached_, kRows = kBatchTiles * kTileRows;

  // Of a block with so many warps, in a cluster or grid of so many blocks.
  static constexpr SequenceShape shape(int unit_warps, int parts, int blocks, std::int64_t slices) {
    SequenceShape s{};
    s.tier = kTier, s.storage_bytes = int(sizeof(T));
    s.unit_warps = unit_warps, s.parts = parts;
    s.tiles = kTiles, s.batch_tiles = kBatchTiles, s.cached = kCached;
    s.columns = kFan * unit_warps * kUnits * blocks;
    s.lane_values = kBatchTiles * kGroups * 2 * kStates, s.slices = slices;
    return s;
  }
};

template <class Args, class Direction, class Traits>
class SequenceBlock {
 protected:
  using T = typename Traits::T;
  static constexpr bool kCluster = Traits::kCluster, kGrid = Traits::kGrid;
  static constexpr int N = Traits::kBatchTiles, U = Traits::kGroups, kRows = Traits::kRows;

  FC_DEVICE explicit SequenceBlock(const Args& args)
      : a_(args),
        d_(args.directions[blockIdx.y]),
        lane_(int(threadIdx.x) % kWarpLanes),
        warp_(int(threadIdx.x) / kWarpLanes),
        part_(int(threadIdx.y)) {
    rows_ = Rows{a_.lengths, a_.resets, a_.T, a_.B, d_.reverse};
    blocks_ = kCluster ? int(ptx::cluster_size()) : kGrid ? int(gridDim.x) : 1;
    const int rank = kCluster ? int(ptx::cluster_rank()) : kGrid ? int(blockIdx.x) : 0;
    const int unit_warps = int(blockDim.x) / kWarpLanes, units = unit_warps * Traits::kUnits;
    units_ = units * blocks_, first_unit_ = rank * units + warp_ * Traits::kUnits;
    slices_ = kGrid ? int((a_.B + kRows - 1) / kRows) : 1;
    take_slice(kGrid ? 0 : int(blockIdx.x) / blocks_);
    shape_ = Traits::shape(unit_warps, int(blockDim.y), blocks_, slices_);
    const auto at = SequenceShared::of(shape_);
    exchange_ = ptx::shared_array<uint4>(at.exchange, kGrid ? 0 : 2 * buffer_quads());
    states_ = ptx::shared_array<float>(at.states, (at.barriers - at.states) / 4);
    full_ = ptx::shared_array<ptx::Transactions>(at.barriers, 2);
  }

  // ---- who ----

  FC_DEVICE bool is_owner() const { return part_ == 0; }
  FC_DEVICE int thread() const { return int(threadIdx.y * blockDim.x + threadIdx.x); }
  FC_DEVICE int threads() const { return int(blockDim.x * blockDim.y); }
  FC_DEVICE void take_slice(int slice) {
    slice_ = slice;
    first_row_ = std::int64_t(slice) * kRows;
  }
  // In step i it was this slice's turn: now the next one's, in the step that is returned.
  FC_DEVICE std::int64_t pass_turn(std::int64_t i) {
    if constexpr (!kGrid) return i + 1;
    const bool is_last = slice_ + 1 == slices_;
    take_slice(is_last ? 0 : slice_ + 1);
    return i + is_last;
  }
  // Of this lane's accumulators: the unit of group g, and the row of tile n, column e.
  FC_DEVICE std::int64_t unit(int g) const { return first_unit_ + g * kGroupUnits + lane_ / 4; }
  FC_DEVICE std::int64_t row(int n, int e) const {
    return first_row_ + n * kTileRows + lane_ % 4 * 2 + e;
  }
  FC_DEVICE bool is_ours(int n, int g, int e) const { return row(n, e) < a_.B && unit(g) < a_.H; }
  // f(n, g, e) for all that a lane has.
  template <class F>
  FC_DEVICE static void each(const F& f) {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int g = 0; g < U; ++g) {
        FC_UNROLL
        for (int e = 0; e < 2; ++e) f(n, g, e);
      }
    }
  }
  FC_DEVICE T of_row(const void* states, std::int64_t b, std::int64_t u) const {
    return states ? static_cast<const T*>(states)[b * a_.H + u] : T(0.0f);
  }

  // ---- states of a slice: in registers, but a grid of several slices keeps them ----

  using State = float[Traits::kStates][N][U][2];

  FC_DEVICE void keep(const State& state) const {
    if constexpr (kGrid) {
      each_kept(
          [&](int k, int n, int g, int e, std::int64_t at) { states_[at] = state[k][n][g][e]; });
    }
  }
  FC_DEVICE void take(State& state) const {
    if constexpr (kGrid) {
      each_kept(
          [&](int k, int n, int g, int e, std::int64_t at) { state[k][n][g][e] = states_[at]; });
    }
  }

  // ---- the exchange ----

  FC_DEVICE int row_quads() const { return shape_.row_bytes() / 16; }
  FC_DEVICE int buffer_quads() const { return shape_.exchange_bytes() / 16; }
  // Buffer 0 or 1 of this slice, in global memory: [rows][columns + padding].
  FC_DEVICE uint4* global_buffer(int number) const {
    const std::int64_t buffer = std::int64_t(number) * slices_ + slice_;
    return static_cast<uint4*>(d_.exchange.buffers) + buffer * buffer_quads();
  }
  FC_DEVICE ptx::Shared<uint4> buffer(int number) const {
    return exchange_ + number * buffer_quads();
  }
  // 16 bytes of a row of exchange `number`; the rows past the last are zero.
  FC_DEVICE uint4 exchanged(int number, int r, int quad) const {
    if constexpr (kGrid) {
      if (first_row_ + r >= a_.B) return uint4{0, 0, 0, 0};
      return ptx::load_global(global_buffer(number) + r * row_quads() + quad);
    } else {
      return buffer(number)[r * row_quads() + quad];
    }
  }

  // Both buffers of shared memory: value(row, column) in the first, zero in the second and in the
  // padding.
  template <class Value>
  FC_DEVICE void fill_exchange(const Value& value) const {
    if constexpr (!kGrid) {
      const auto elements = ptx::shared_cast<Bits<T>>(exchange_);
      const int width = shape_.row_bytes() / int(sizeof(T)), count = kRows * width;
      for (int i = thread(); i < 2 * count; i += threads()) {
        const int u = i % width;
        elements[i] = bits_of(i < count && u < a_.H ? value(i / width, u) : T(0.0f));
      }
    }
  }
  // Once, before anything is sent: all blocks are here then, and see each other's memory.
  FC_DEVICE void open_exchange() const {
    if constexpr (kCluster) {
      if (thread() == 0) {
        ptx::transactions_init(full_, 1);
        ptx::transactions_init(full_ + 1, 1);
      }
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }
  // Once an exchange, before the wait for it.
  FC_DEVICE void expect(std::int64_t exchange) const {
    if (kCluster && thread() == 0) {
      constexpr int kBytes = kRows * Traits::kFan * int(sizeof(T));
      ptx::arrive_expecting(full_ + int(exchange & 1), unsigned(kBytes * units_));
    }
  }
  // The lanes' values of one group of units, for two rows each, to a column of every block.
  FC_DEVICE void send(std::int64_t exchange, int n, int column, T first, T second) const {
    const Gathered<T> group = gather(lane_, first, second);
    const int number = int(exchange & 1), r = n * kTileRows + group.row;
    const int at = r * row_quads() + (column + group.first_unit) * int(sizeof(T)) / 16;
    if constexpr (kCluster) {  // several lanes have the same: each serves other blocks
      for (int peer = group.copy; peer < blocks_; peer += Gathered<T>::kCopies) {
        ptx::store_async(buffer(number) + at, group.bytes, full_ + number, unsigned(peer));
      }
    } else if (group.copy == 0) {
      if constexpr (kGrid) {
        if (first_row_ + r < a_.B) ptx::store_global(global_buffer(number) + at, group.bytes);
      } else {
        buffer(number)[at] = group.bytes;
      }
    }
  }
  // After a warp has sent all of an exchange.
  FC_DEVICE void publish(std::int64_t exchange) const {
    if constexpr (kGrid) {
      __syncwarp();
      unsigned* const own = d_.exchange.flags + int(blockIdx.x) * shape_.unit_warps + warp_;
      if (lane_ == 0) ptx::store_release(own, times_published(exchange));
    }
  }
  // Until all blocks' values are there.
  FC_DEVICE void wait_for(std::int64_t exchange) const {
    if constexpr (kCluster) {  // exchange 0 is not counted: every block fills it in by itself
      ptx::wait(full_ + int(exchange & 1), unsigned((exchange - 1) >> 1 & 1));
    } else {
      if constexpr (kGrid) {
        const int flags = blocks_ * shape_.unit_warps;
        for (int k = thread(); k < flags; k += threads()) {
          ptx::wait_for_flag(d_.exchange.flags + k, times_published(exchange));
        }
      }
      __syncthreads();
    }
  }
  // Once, at the end: no block leaves while others may still send to it.
  FC_DEVICE void close_exchange() const {
    if constexpr (kCluster) ptx::cluster_sync();
  }

  const Args& a_;
  const Direction& d_;
  const int lane_, warp_, part_;
  Rows rows_;
  SequenceShape shape_;
  int blocks_, units_;  // of the cluster or grid
  int first_unit_;      // of this warp
  int slices_, slice_;  // that take turns, and the one whose turn it is
  std::int64_t first_row_;

 private:
  // By a warp, up to and with this exchange of this slice: exchange 0 is of all slices at once.
  FC_DEVICE unsigned times_published(std::int64_t exchange) const {
    return exchange == 0 ? 1u : unsigned((exchange - 1) * slices_ + slice_ + 2);
  }
  template <class F>
  FC_DEVICE void each_kept(const F& f) const {
    constexpr int kValues = N * U * 2;
    const std::int64_t first = std::int64_t(slice_) * shape_.unit_warps + warp_;
    FC_UNROLL
    for (int k = 0; k < Traits::kStates; ++k) {
      each([&](int n, int g, int e) {
        const int value = k * kValues + (n * U + g) * 2 + e;
        f(k, n, g, e, (first * shape_.lane_values + value) * kWarpLanes + lane_);
      });
    }
  }

  ptx::Shared<uint4> exchange_;
  ptx::Shared<float> states_;
  ptx::Shared<ptx::Transactions> full_;
};

}  // namespace fastcells
