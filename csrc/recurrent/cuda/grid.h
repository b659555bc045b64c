// Blocks and threads of the kernels that a thread an element, a lane or a unit of a row runs: what
// kernels and launchers must agree on. Torch-free.
#pragma once
#include <cstdint>

namespace fastcells {

constexpr int kStepThreads = 256;                // 8 warps; step kernels take at most 48 registers
constexpr std::int64_t kMostStepBlocks = 65536;  // beyond, a thread takes more than one element

constexpr int kLaneThreads = 64;  // small blocks: every multiprocessor has lanes

constexpr int kWarpThreads = 32, kMostRowThreads = 256;
constexpr int kMostRowWarps = kMostRowThreads / kWarpThreads;
constexpr int kMostRowSums = 8;  // two for each gate
constexpr int kRowSharedBytes = kMostRowWarps * kMostRowSums * int(sizeof(double));

struct Grid {
  unsigned blocks, threads;
  unsigned shared_bytes = 0;
};

// A thread an element, a thread a lane.
inline Grid grid_of_steps(std::int64_t elements) {
  const std::int64_t wanted = (elements + kStepThreads - 1) / kStepThreads;
  return {unsigned(wanted < kMostStepBlocks ? wanted : kMostStepBlocks), kStepThreads};
}
inline Grid grid_of_lanes(std::int64_t lanes) {
  return {unsigned((lanes + kLaneThreads - 1) / kLaneThreads), kLaneThreads};
}
// A block a row: a thread a unit, in whole warps.
inline Grid grid_of_rows(std::int64_t rows, std::int64_t units) {
  const std::int64_t warps = (units + kWarpThreads - 1) / kWarpThreads;
  const std::int64_t taken = warps < 1 ? 1 : warps < kMostRowWarps ? warps : kMostRowWarps;
  return {unsigned(units > 0 ? rows : 0), unsigned(kWarpThreads * taken), kRowSharedBytes};
}

}  // namespace fastcells
