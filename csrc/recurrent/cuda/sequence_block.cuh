// What both ways through a layer share: which units and rows a lane has, where a block's arrays
// lie, and how results reach all blocks, 16 bytes a store:
//
//   block    into its own shared memory; a barrier of the block
//   cluster  by st.async into the shared memory of every block, counted by an mbarrier; in rows, or
//            in lines (sequence_lines.cuh)
//   grid     into global memory, where the L2 has it; a counter for each slice, or packets
//            (sequence_packets.cuh)
//
// Exchanges are numbered 0, 1, 2, ..., and take turns in two buffers.
//
// A block has unit_warps x parts warps (threadIdx.y is the part): those of the first parts share
// the cells of their units, the others help with the product. A lane of a warp's product holds unit
// l / 4 of a group of eight, for rows 2 * (l % 4) and the one behind it.
#pragma once
#include <type_traits>

#include "cuda/ptx.cuh"
#include "host_device.h"
#include "recurrent/cuda/plan.h"
#include "recurrent/cuda/sequence_gather.cuh"
#include "recurrent/cuda/sequence_lines.cuh"
#include "recurrent/cuda/sequence_packets.cuh"

namespace fastcells {

using cuda::Exchange, cuda::SequenceShape, cuda::SequenceShared, cuda::Tier;
using cuda::kGroupUnits, cuda::kStepBytes, cuda::kTileRows, cuda::kWarpLanes;

// How a kernel is made: kUnits units a warp, kTiles m16 tiles, kFan columns over K for each unit,
// kBatchTiles tiles of eight rows a slice, kStates states of the cell.
template <class T_, Tier kTier_, int kUnits_, int kTiles_, int kFan_, int kStates_,
          int kBatchTiles_, int kCached_, Exchange kExchange_>
struct SequenceTraits {
  using T = T_;
  static constexpr Tier kTier = kTier_;
  static constexpr Exchange kExchange = kExchange_;
  static constexpr bool kPackets = kTier == Tier::kGrid && kExchange == Exchange::kPackets;
  static constexpr bool kCluster = kTier == Tier::kCluster, kGrid = kTier == Tier::kGrid;
  static constexpr bool kLines = kCluster && kExchange == Exchange::kLines;
  static constexpr int kUnits = kUnits_, kTiles = kTiles_, kFan = kFan_, kStates = kStates_;
  static constexpr int kGroups = kUnits / kGroupUnits, kBatchTiles = kBatchTiles_;
  static constexpr int kPerGroup = 2 * kTiles / kGroups;  // halves of tiles, of a group
  static_assert(!kLines || kBatchTiles == 1);
  static constexpr int kCached = kCached_, kRows = kBatchTiles * kTileRows;

  // Of a block with so many warps, in a cluster or grid of so many blocks.
  static constexpr SequenceShape shape(int unit_warps, int parts, int blocks, std::int64_t slices) {
    SequenceShape s{};
    s.tier = kTier, s.exchange = kExchange, s.storage_bytes = int(sizeof(T));
    s.unit_warps = unit_warps, s.parts = parts;
    s.tiles = kTiles, s.batch_tiles = kBatchTiles, s.groups = kGroups, s.cached = kCached;
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
  static constexpr bool kPackets = Traits::kPackets, kLines = Traits::kLines;
  static constexpr int kGroupQuads = int(sizeof(T)) * kGroupUnits / 16;  // of a row
  static constexpr int N = Traits::kBatchTiles, U = Traits::kGroups, kRows = Traits::kRows;

  // The first exchange that is sent has number `first_exchange`.
  FC_DEVICE SequenceBlock(const Args& args, int first_exchange)
      : a_(args),
        d_(args.directions[blockIdx.y]),
        T_(int(args.T)),
        B_(int(args.B)),
        H_(int(args.H)),
        first_exchange_(first_exchange),
        lane_(int(threadIdx.x) % kWarpLanes),
        warp_(int(threadIdx.x) / kWarpLanes),
        part_(int(threadIdx.y)) {
    blocks_ = kCluster ? int(ptx::cluster_size()) : kGrid ? int(gridDim.x) : 1;
    const int rank = kCluster ? int(ptx::cluster_rank()) : kGrid ? int(blockIdx.x) : 0;
    const int unit_warps = int(blockDim.x) / kWarpLanes, units = unit_warps * Traits::kUnits;
    units_ = units * blocks_, first_unit_ = rank * units + warp_ * Traits::kUnits;
    slices_ = kGrid ? (B_ + kRows - 1) / kRows : 1;
    take_slice(kGrid ? 0 : int(blockIdx.x) / blocks_);
    shape_ = Traits::shape(unit_warps, int(blockDim.y), blocks_, slices_);
    owners_ = shape_.owners();
    const auto at = SequenceShared::of(shape_);
    exchange_ = ptx::shared_array<uint4>(at.exchange, kGrid ? 0 : 2 * buffer_quads());
    states_ = ptx::shared_array<float>(at.states, (at.barriers - at.states) / 4);
    full_ = ptx::shared_array<ptx::Transactions>(at.barriers, 2);
  }

  // ---- who ----

  // The tiles and groups of a warp's units are shared out among its parts: cells take longer than
  // sums.
  FC_DEVICE bool owns(int n, int g) const { return part_ == (n * U + g) % owners_; }
  FC_DEVICE bool is_owner() const { return part_ < owners_; }
  FC_DEVICE int thread() const { return int(threadIdx.y * blockDim.x + threadIdx.x); }
  FC_DEVICE int threads() const { return int(blockDim.x * blockDim.y); }
  FC_DEVICE void take_slice(int slice) {
    slice_ = slice;
    first_row_ = slice * kRows;
  }
  // In step i it was this slice's turn: now the next one's, in the step that is returned.
  FC_DEVICE int pass_turn(int i) {
    if constexpr (kPackets) is_odd_turn_ = !is_odd_turn_;
    if constexpr (!kGrid) return i + 1;
    const bool is_last = is_last_slice();
    take_slice(is_last ? 0 : slice_ + 1);
    return i + is_last;
  }
  // Of this lane's accumulators: the unit of group g, and the row of tile n, column e.
  FC_DEVICE int unit(int g) const { return first_unit_ + g * kGroupUnits + lane_ / 4; }
  FC_DEVICE int row(int n, int e) const { return first_row_ + n * kTileRows + lane_ % 4 * 2 + e; }
  FC_DEVICE bool is_ours(int n, int g, int e) const { return row(n, e) < B_ && unit(g) < H_; }

  // ---- a lane's elements of an array [T, B, ...], a step and slice at a time ----

  template <class X>
  struct Array {
    X* at;       // of tile 0, group 0 and the first row; nullptr: there is no such array
    int stride;  // elements from row to row

    FC_DEVICE X& operator()(int n, int g, int e, int column = 0) const {
      return at[(n * kTileRows + e) * stride + g * kGroupUnits + column];
    }
  };
  // 64 bits once an array and turn, the rest in 32: reckoning addresses took longer than the
  // product of a small layer.
  template <class X>
  FC_DEVICE Array<X> array(X* rows, std::int64_t stride, int more_rows = 0) const {
    const int width = int(stride), row = array_row_ + more_rows;
    return {rows ? rows + std::int64_t(row) * width + unit(0) : nullptr, width};
  }
  // The first turn: step t of the first slice.
  FC_DEVICE void open_arrays(int t) {
    array_row_ = t * B_ + (kGrid ? 0 : first_row_) + lane_ % 4 * 2;
  }
  // To the next turn: the next slice's, or the first one's in the step that is visited next, which
  // follows this one, or comes before it.
  FC_DEVICE void advance_arrays(bool follows) {
    const int step = follows ? B_ : -B_;
    array_row_ += !kGrid ? step : is_last_slice() ? step - slice_ * kRows : kRows;
  }
  FC_DEVICE bool is_last_slice() const { return slice_ + 1 == slices_; }

  // ---- which steps a row has (rows.h) ----

  FC_DEVICE int length(int b) const { return a_.lengths ? int(a_.lengths[b]) : T_; }
  // Whether no state passes across `boundary`, which lies in front of the step of that number.
  FC_DEVICE bool is_cut(int boundary, int b) const {
    return a_.resets && boundary > 0 && boundary < length(b) &&
           a_.resets[std::int64_t(boundary) * B_ + b];
  }
  FC_DEVICE bool cut_after(int t, int b) const { return is_cut(d_.reverse ? t : t + 1, b); }
  // The initial states do not reach the first step of row b.
  FC_DEVICE bool cut_initial(int b) const {
    return a_.resets && !d_.reverse && length(b) > 0 && a_.resets[b];
  }
  // f(n, g) for all tiles and groups that are this warp's, f(n, g, e) for both rows of each.
  template <class F>
  FC_DEVICE void each_pair(const F& f) const {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int g = 0; g < U; ++g) {
        if (owns(n, g)) f(n, g);
      }
    }
  }
  template <class F>
  FC_DEVICE void each(const F& f) const {
    each_pair([&](int n, int g) {
      FC_UNROLL
      for (int e = 0; e < 2; ++e) f(n, g, e);
    });
  }
  FC_DEVICE T of_row(const void* states, int b, int u) const {
    return states ? static_cast<const T*>(states)[std::int64_t(b) * H_ + u] : T(0.0f);
  }

  // ---- states of a slice: in registers, but a grid of several slices keeps them ----

  using State = float[Traits::kStates][N][U][2];

  FC_DEVICE void keep(const State& state) const {
    if constexpr (kGrid) {
      if (slices_ == 1) return;
      each_kept([&](int k, int n, int g, int e, int at) { states_[at] = state[k][n][g][e]; });
    }
  }
  FC_DEVICE void take(State& state) const {
    if constexpr (kGrid) {
      if (slices_ == 1) return;
      each_kept([&](int k, int n, int g, int e, int at) { state[k][n][g][e] = states_[at]; });
    }
  }

  // ---- the exchange ----

  FC_DEVICE int row_quads() const { return shape_.row_bytes() / 16; }
  FC_DEVICE int buffer_quads() const { return shape_.exchange_bytes() / 16; }
  // Of this slice, in global memory: [rows][columns + padding].
  FC_DEVICE uint4* global_buffer(int exchange) const {
    const std::int64_t buffer = std::int64_t(exchange & 1) * slices_ + slice_;
    return static_cast<uint4*>(d_.exchange.buffers) + buffer * buffer_quads();
  }
  FC_DEVICE ptx::Shared<uint4> buffer(int number) const {
    return exchange_ + number * buffer_quads();
  }
  // Where 16 bytes of a row lie in a buffer.
  FC_DEVICE int place(int r, int quad) const {
    return kLines ? line_place(r, quad) : r * row_quads() + quad;
  }
  // 16 bytes of a row of an exchange; the rows past the last are zero.
  FC_DEVICE uint4 exchanged(int exchange, int r, int quad) const {
    if constexpr (kGrid) {
      if (first_row_ + r >= B_) return uint4{0, 0, 0, 0};
      return ptx::load_global(global_buffer(exchange) + r * row_quads() + quad);
    } else {
      return buffer(exchange & 1)[place(r, quad)];
    }
  }
  // Of the same as a packet. Nobody sends rows past the last, or what pads a row.
  FC_DEVICE bool is_sent(int n, int r, int quad) const {
    return first_row_ + n * kTileRows + r < B_ &&
           quad < Traits::kFan * units_ / kGroupUnits * kGroupQuads;
  }
  FC_DEVICE ptx::PacketPlace packet_place(int exchange, int n, int r, int quad) const {
    const uint4* const tile = global_buffer(exchange) + n * shape_.tile_rows() * row_quads();
    const uint4* const rest = tile + kTileRows * row_quads() + quad / kGroupQuads;
    return {tile + r * row_quads() + quad, reinterpret_cast<const uint2*>(rest) + r % 2};
  }
  FC_DEVICE unsigned tag(int exchange) const { return tag_of(exchange - first_exchange_); }

  // Both buffers of shared memory: value(row, column) in the first, zero in the second and in the
  // padding.
  template <class Value>
  FC_DEVICE void fill_exchange(const Value& value) const {
    if constexpr (!kGrid) {
      const auto elements = ptx::shared_cast<Bits<T>>(exchange_);
      constexpr int kQuad = 16 / int(sizeof(T));
      const int width = shape_.row_bytes() / int(sizeof(T)), count = kRows * width;
      for (int i = thread(); i < 2 * count; i += threads()) {
        const int u = i % width;
        int at = i;
        if constexpr (kLines) {
          at = i / count * count + place(i % count / width, u / kQuad) * kQuad + u % kQuad;
        }
        elements[at] = bits_of(i < count && u < H_ ? value(i / width, u) : T(0.0f));
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
  FC_DEVICE void expect(int exchange) const {
    if (kCluster && thread() == 0) {
      constexpr int kBytes = kRows * Traits::kFan * int(sizeof(T));
      ptx::arrive_expecting(full_ + (exchange & 1), unsigned(kBytes * units_));
    }
  }
  // The lanes' values of group g of this warp's units, for two rows each, to the columns of a gate
  // (forward: of the only one) of every block.
  FC_DEVICE void send(int exchange, int n, int gate, int g, T first, T second) const {
    const int column = gate * units_ + first_unit_ + g * kGroupUnits;
    if constexpr (kPackets) {
      send_packets(exchange, n, column, first, second);
    } else {
      send_quads(exchange, n, column, first_unit_ + g * kGroupUnits, first, second);
    }
  }
  // `unit` is that of the column: a gate's columns are a multiple of a step over K in a cluster
  // that has several gates.
  FC_DEVICE void send_quads(int exchange, int n, int column, int unit, T first, T second) const {
    const Gathered<T> group = gather(lane_, first, second);
    const int number = (exchange & 1), r = n * kTileRows + group.row;
    const auto quad = [&](int of) { return (of + group.first_unit) * int(sizeof(T)) / 16; };
    const int at = kLines ? quad(column) * kTileRows + line_slot(r, quad(unit))
                          : r * row_quads() + quad(column);
    if constexpr (kCluster) {  // several lanes have the same: each serves other blocks
      FC_UNROLL
      for (int i = 0; i < cuda::kMostCluster / Gathered<T>::kCopies; ++i) {
        const int peer = group.copy + i * Gathered<T>::kCopies;
        if (peer >= blocks_) break;
        ptx::store_async(buffer(number) + at, group.bytes, full_ + number, unsigned(peer));
      }
    } else if (group.copy == 0) {
      if constexpr (kGrid) {
        if (first_row_ + r < B_) ptx::store_global(global_buffer(exchange) + at, group.bytes);
      } else {
        buffer(number)[at] = group.bytes;
      }
    }
  }
  FC_DEVICE void send_packets(int exchange, int n, int column, T first, T second) const {
    const unsigned tag = this->tag(exchange);
    const auto tagged = [tag](T x) { return of_bits<T>(Bits<T>((bits_of(x) & ~1u) | tag)); };
    const uint4 rest = rest_of_tile<T>(lane_, bits_of(first), bits_of(second), tag);
    const Gathered<T> group = gather(lane_, tagged(first), tagged(second));
    uint4* const tile = global_buffer(exchange) + n * shape_.tile_rows() * row_quads();
    const int rows = B_ - first_row_ - n * kTileRows;  // of this tile that there are, or more
    const int quad = (column + group.first_unit) * int(sizeof(T)) / 16;
    if (group.copy == 0 && group.row < rows) {
      ptx::store_packet(tile + group.row * row_quads() + quad, group.bytes);
    }
    if (lane_ == kTileRows && rows > 0) {  // one that has stored nothing
      ptx::store_packet(tile + kTileRows * row_quads() + column / kGroupUnits, rest);
    }
  }
  // After a warp has sent all of an exchange.
  FC_DEVICE void publish() const {
    if constexpr (kGrid && !kPackets) {
      __syncwarp();
      if (lane_ == 0) ptx::add_release(counter());
    }
  }
  // Until all blocks' values are there, which is when all have published so many times. The last
  // warp looks: if any has no cells, it is that one.
  FC_DEVICE void wait_for(int exchange, int times) const {
    if constexpr (kCluster) {  // exchange 0 is not counted: every block fills it in by itself
      ptx::wait(full_ + (exchange & 1), unsigned((exchange - 1) >> 1 & 1));
    } else if constexpr (!kPackets) {  // with packets whoever reads waits
      if constexpr (kGrid) {
        const unsigned writers = unsigned(blocks_ * owners_ * shape_.unit_warps);
        if (thread() == threads() - kWarpLanes) {
          ptx::wait_for_count(counter(), unsigned(times) * writers);
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
  const int T_, B_, H_;
  const int first_exchange_;
  const int lane_, warp_, part_;
  SequenceShape shape_;
  int blocks_, units_;  // of the cluster or grid
  int owners_;          // parts that have cells
  int array_row_;       // of the arrays' T * B
  int first_unit_;      // of this warp
  int slices_, slice_;  // that take turns, and the one whose turn it is
  int first_row_;
  bool is_odd_turn_ = false;

 private:
  // How often warps have published of this slice.
  FC_DEVICE unsigned* counter() const {
    return d_.exchange.counters + slice_ * cuda::kCounterWords;
  }
  template <class F>
  FC_DEVICE void each_kept(const F& f) const {
    constexpr int kValues = N * U * 2;
    const int first = slice_ * shape_.unit_warps + warp_;
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
