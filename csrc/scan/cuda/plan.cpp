#include "scan/cuda/plan.h"

#include <algorithm>

namespace fastcells::cuda {
namespace {

// Of a multiprocessor: with fewer lanes than this most of its loads' latency is waited for, and
// chunks bring so many threads. None of these numbers is measured.
constexpr std::int64_t kEnoughLanes = 64, kThreads = 256;
// Chunks read everything twice, in three kernels: a chunk's steps, and chunks, that are worth it.
constexpr std::int64_t kLeastSteps = 64, kLeastChunks = 4;
// A warp goes through the chunks of a lane: 64 for each of its threads.
constexpr std::int64_t kMostChunks = 2048;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

ScanPlan plan_scan(std::int64_t T, std::int64_t lanes, int multiprocessors) {
  T = std::max<std::int64_t>(1, T), lanes = std::max<std::int64_t>(1, lanes);
  if (lanes >= kEnoughLanes * multiprocessors) return {1, T};
  const std::int64_t wanted =
      std::min({divide_up(kThreads * multiprocessors, lanes), T / kLeastSteps, kMostChunks});
  if (wanted < kLeastChunks) return {1, T};
  const std::int64_t steps = divide_up(T, wanted);
  return {divide_up(T, steps), steps};
}

}  // namespace fastcells::cuda
