#include "scan/cpu/plan.h"

#include <algorithm>

namespace fastcells::cpu {
namespace {

// Bytes below which a second thread costs more than it brings.
constexpr std::int64_t kBytesPerThread = 96 << 10;
// Steps of a chunk: below, what is done twice costs more than it brings.
constexpr std::int64_t kLeastChunk = 512;
// Bytes of state that a task keeps in the first-level cache beside what streams past.
constexpr std::int64_t kTileBytes = 16 << 10;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

ScanPlan plan_scan(const ScanShape& s, int threads, bool can_chunk) {
  const std::int64_t vectors = divide_up(s.lanes, s.vector_lanes);  // of a row
  const std::int64_t worth = std::max<std::int64_t>(1, s.bytes / kBytesPerThread);
  threads = int(std::min<std::int64_t>(threads, worth));
  const std::int64_t total = s.rows * vectors;
  if (can_chunk && total < threads && s.T >= kLeastChunk * (threads + 1)) {
    return {threads, vectors * s.vector_lanes, threads + 1};
  }
  threads = int(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, total)));
  // As wide as the cache allows: each step of a tile is a piece of memory, and longer ones come
  // faster. Each thread has the same, if rows are few.
  const std::int64_t most = std::max<std::int64_t>(1, kTileBytes / s.lane_bytes / s.vector_lanes);
  std::int64_t tiles = divide_up(vectors, most);
  if (s.rows < 4 * threads) {
    tiles = divide_up(divide_up(s.rows * tiles, threads) * threads, s.rows);
  }
  tiles = std::min(tiles, vectors);
  const std::int64_t tile = divide_up(vectors, std::max<std::int64_t>(1, tiles));
  return {threads, std::max<std::int64_t>(1, tile) * s.vector_lanes, 1};
}

}  // namespace fastcells::cpu
