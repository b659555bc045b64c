// How a scan is cut into tasks on a CPU. Torch-free.
#pragma once
#include <cstdint>

namespace fastcells::cpu {

// Batch rows that walk through T steps, each of so many lanes: parts of numbers side by side.
struct ScanShape {
  std::int64_t T, rows, lanes;
  std::int64_t vector_lanes, lane_bytes;
  std::int64_t bytes;  // that the call reads and writes
};

struct ScanPlan {
  int threads;
  std::int64_t tile;    // lanes of a task: whole vectors, or all
  std::int64_t chunks;  // of time: 1, or one more than threads
  bool is_chunked() const { return chunks > 1; }
};

// Threads are those that torch allows. Where there are fewer vectors of lanes than threads, time is
// cut into chunks: the first is walked at once, of the others all but the last are first summed up
// (the product of the factors, and the state that comes of zero), and when the states between them
// are known all are walked at the same time. A thread so walks two of `threads + 1` chunks. The
// results depend on the number of chunks in their last bits, and so on that of torch's threads.
ScanPlan plan_scan(const ScanShape& shape, int threads, bool can_chunk);

// The steps of a chunk begin here, in the order of processing.
inline std::int64_t chunk_begin(const ScanPlan& plan, std::int64_t T, std::int64_t chunk) {
  return T * chunk / plan.chunks;
}

}  // namespace fastcells::cpu
