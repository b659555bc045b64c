// Which kernels take a layer on a GPU, and in what shape: pure, printable, tested without one.
//
// Facts of the device and the problem go in, a Plan comes out, with the reason why each faster tier
// does not apply. No CUDA header.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace fastcells::cuda {

struct Device {
  int compute;         // 80, 89, 90, 100: major * 10 + minor
  int shared_bytes;    // that a block may have (opt-in)
  int cluster_blocks;  // largest cluster: 1 before compute 90, else 8 or, non-portable, 16
  int multiprocessors;
};

struct Problem {
  int gates, states;  // of the cell
  bool two_products, is_projected;
  int storage_bytes;  // of one element
  int directions;
  std::int64_t T, B, H;
  bool is_backward;
  bool is_compiled = false;  // a cell that was compiled by itself
};

enum class Tier {
  kBlock,     // sequence kernel: a block for each slice of the batch
  kCluster,   // sequence kernel: a cluster of blocks for each slice
  kGrid,      // sequence kernel: all blocks of a cooperative grid for one slice after the other
  kStepwise,  // a matrix product and a step kernel a step
};

// How the blocks of a cluster or grid exchange: how they know that what the others send is there,
// and how it lies.
enum class Exchange {
  kCounters,  // rows; a cluster's mbarriers count bytes, a grid's senders count up, one thread of a
              // block waits for the count, then all read
  kPackets,   // of a grid: what is sent says so itself (sequence_packets.cuh): who needs it looks
              // until it does
  kLines,     // of a cluster: counted likewise, but what a warp sends to a block fills lines
              // (sequence_lines.cuh)
};

struct Plan {
  Tier tier = Tier::kStepwise;
  Exchange exchange = Exchange::kCounters;
  int unit_warps = 0, parts = 0;  // warps of a block: groups of units, and parts of K of each
  int blocks = 0;                 // of a cluster, or of the grid, a direction
  int rows = 0;                   // of a slice of the batch
  std::int64_t slices = 0;
  std::int64_t shared_bytes = 0;
  std::int64_t exchange_bytes = 0;   // of global memory, a direction; the grid's alone
  std::int64_t counter_words = 0;    // of 4 bytes, behind them; packets need none
  double microseconds = 0;           // that a step is expected to take
  std::vector<std::string> why_not;  // each tier that does not apply, and why
};

// The fastest by a cost model: waves of blocks times what a step takes (plan.cpp's table).
Plan plan(const Problem& problem, const Device& device);
// In one line: "clusters of 8 blocks, ..."
std::string describe(const Plan& plan);

// ---- the shape of the sequence kernels, which they and the plan agree on ----

constexpr int kWarpLanes = 32, kGroupUnits = 8, kTileRows = 8, kMostWarps = 8;
constexpr int kMostCluster = 16;   // blocks
constexpr int kCounterWords = 32;  // a cache line for each slice's counter
constexpr int kStepBytes = 64;     // of a row of the product's operands: one step over K

// Units a warp owns on the way forward, and on the way back, where it has one tile.
constexpr int forward_units(int gates) { return gates == 4 ? 8 : 16; }
constexpr int kBackwardUnits = 16;
// Tiles of 16 rows (two halves, each a gate of eight units) that a warp owns on the way forward.
constexpr int forward_tiles(int gates) {
  return (forward_units(gates) / kGroupUnits * gates + 1) / 2;
}
// Steps over K whose weights a warp of so many tiles keeps in registers, if there are that many: as
// many as 255 registers a thread hold beside what a step needs, without spilling.
constexpr int cached_steps(Tier tier, int tiles, int gates, int storage_bytes,
                           Exchange exchange = Exchange::kCounters) {
  const bool is_half = storage_bytes == 2;
  if (tier == Tier::kGrid && exchange == Exchange::kPackets) {
    return tiles == 1 ? 9 + is_half : tiles == 2 ? 2 + is_half : 0;
  }
  if (tier == Tier::kGrid) return tiles == 1 ? 10 : tiles == 2 ? 3 + is_half : 0;
  const int one_tile = gates == 4 ? (is_half ? 13 : 11) : 12;
  return tiles == 1 ? one_tile : tiles == 2 ? 7 : 3;
}
// Tiles of eight rows in a slice of the batch. A grid reads the weights again for each slice; on
// the way back the registers do not hold two.
constexpr int batch_tiles(Tier tier, bool is_backward) {
  return tier == Tier::kGrid && !is_backward ? 2 : 1;
}

// What a block holds.
struct SequenceShape {
  Tier tier;
  Exchange exchange;
  int storage_bytes;
  int unit_warps, parts;
  int tiles, batch_tiles;  // of a warp: weights, rows
  int groups;              // of eight units, of a warp
  int cached;              // steps over K in registers, at most
  int columns;             // of K, of the whole cluster or grid
  int lane_values;         // of the state of a slice, a lane
  std::int64_t slices;     // whose states are kept in shared memory: the grid's

  // Parts that share the cells: each has whole groups of a tile of rows.
  constexpr int owners() const {
    return parts < batch_tiles * groups ? parts : batch_tiles * groups;
  }
  constexpr int steps() const { return (columns * storage_bytes + kStepBytes - 1) / kStepBytes; }
  constexpr int part_steps() const { return (steps() + parts - 1) / parts; }
  constexpr int stored_steps() const { return part_steps() > cached ? part_steps() - cached : 0; }
  constexpr bool has_packets() const { return exchange == Exchange::kPackets; }
  constexpr bool has_lines() const { return exchange == Exchange::kLines; }
  // Of what is exchanged. An odd number of half cache lines: 16 bytes of a lane each of two rows
  // then lie in different banks. Lines see to that themselves.
  constexpr int row_bytes() const {
    return has_lines() ? steps() * kStepBytes : steps() * kStepBytes | kStepBytes;
  }
  // Of a tile of batch rows; with packets one more has the bits whose place their tags take.
  constexpr int tile_rows() const { return kTileRows + has_packets(); }
  constexpr int exchange_bytes() const { return batch_tiles * tile_rows() * row_bytes(); }
  // Sums of the parts, which take turns in as many buffers: with packets the barrier in the middle
  // of a step is the only one.
  constexpr int partial_buffers() const { return parts == 1 ? 0 : 1 + has_packets(); }
};

// Where the arrays lie in the shared memory of a block, in bytes.
struct SequenceShared {
  std::int64_t staging;   // 16 bytes a thread, while the weights are loaded
  std::int64_t partials;  // sums of the parts of K
  std::int64_t exchange;  // two buffers of what the blocks send each other; the grid has none
  std::int64_t states;    // of the slices; the grid's alone
  std::int64_t barriers;  // two mbarriers
  std::int64_t end;

  static constexpr SequenceShared of(const SequenceShape& s) {
    constexpr int kQuad = 16 * kWarpLanes;  // 16 bytes a lane
    SequenceShared at{};
    const std::int64_t warps = std::int64_t(s.unit_warps) * s.parts;
    at.staging = warps * s.stored_steps() * s.tiles * 2 * kQuad;
    at.partials = at.staging + warps * kQuad;
    at.exchange = at.partials + s.partial_buffers() * warps * s.tiles * s.batch_tiles * kQuad;
    at.states = at.exchange + (s.tier == Tier::kGrid ? 0 : 2 * s.exchange_bytes());
    at.barriers = at.states;
    if (s.tier == Tier::kGrid) at.barriers += s.slices * s.unit_warps * s.lane_values * kQuad / 4;
    at.end = at.barriers + 2 * 8;
    return at;
  }
};

}  // namespace fastcells::cuda
