// Into how many chunks of time a scan is cut on CUDA: pure, tested without a GPU. No CUDA header.
#pragma once
#include <cstdint>

namespace fastcells::cuda {

struct ScanPlan {
  std::int64_t chunks;  // 1: a thread walks its lane from end to end
  std::int64_t steps;   // of a chunk; the last has what is left
};

// `lanes` are batch rows times units.
ScanPlan plan_scan(std::int64_t T, std::int64_t lanes, int multiprocessors);

}  // namespace fastcells::cuda
