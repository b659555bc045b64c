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
};

struct Problem {
  int gates;
  bool two_products, is_projected;
  int storage_bytes;  // of one element
  std::int64_t T, B, H;
  bool is_backward;
};

enum class Tier {
  kBlock,     // sequence kernel: a block for each slice of the batch
  kCluster,   // sequence kernel: a cluster of blocks for each slice
  kStepwise,  // a matrix product and a step kernel a step
};

struct Plan {
  Tier tier = Tier::kStepwise;
  int warps = 0;   // of a block
  int blocks = 0;  // of a cluster
  int cached = 0;  // steps over K whose weights stay in registers, at most
  std::int64_t shared_bytes = 0;
  std::int64_t slices = 0;           // of the batch: clusters, a direction
  std::vector<std::string> why_not;  // each faster tier, and why it does not apply
};

Plan plan(const Problem& problem, const Device& device);
// In one line: "cluster of 8 blocks of 4 warps, ..."
std::string describe(const Plan& plan);

// ---- the shape of the sequence kernels, which they and the plan agree on ----

constexpr int kWarpLanes = 32, kGroupUnits = 8, kTileRows = 8, kStepK = 16;
constexpr int kRowPadding = 8;  // elements: eight rows then begin in eight different banks
constexpr int kBatchTiles = 1;  // of eight rows, a slice of the batch

// Units a warp owns on the way forward, and on the way back, where it has one tile.
constexpr int forward_units(int gates) { return gates == 4 ? 8 : 16; }
constexpr int kBackwardUnits = 16;
// Tiles of 16 rows (two halves, each a gate of eight units) that a warp owns on the way forward.
constexpr int forward_tiles(int gates) {
  return (forward_units(gates) / kGroupUnits * gates + 1) / 2;
}
// Steps over K whose weights a warp of so many tiles keeps in registers, if there are that many:
// 128 registers a thread at most.
constexpr int cached_steps(int tiles) { return tiles <= 2 ? 16 : 8; }
// Steps over `columns` of K whose weights are not in registers.
constexpr int steps_past(int columns, int cached) {
  return columns / kStepK > cached ? columns / kStepK - cached : 0;
}

// Where the arrays lie in the shared memory of a block, in bytes: W_hh as fragments, two buffers of
// what the blocks send each other, two mbarriers.
struct SequenceShared {
  std::int64_t exchange, barriers, end;

  // `tiles` of m16 rows a warp; `columns` over K, of the whole cluster.
  static constexpr SequenceShared of(int warps, int tiles, int columns, int batch_tiles,
                                     int cached) {
    SequenceShared s{};
    s.exchange = std::int64_t(warps) * steps_past(columns, cached) * tiles * kWarpLanes * 16;
    s.barriers =
        s.exchange + std::int64_t(2) * batch_tiles * kTileRows * (columns + kRowPadding) * 2;
    s.end = s.barriers + 2 * 8;
    return s;
  }
};

}  // namespace fastcells::cuda
