// Into how many chunks of time a scan is cut on CUDA (scan/cuda/plan.h): pure, no GPU is needed.
#include "scan/cuda/plan.cpp"

#include <cstdio>

using fastcells::cuda::plan_scan, fastcells::cuda::ScanPlan;

namespace {

constexpr int kHopper = 132, kSmall = 20;  // multiprocessors
int failed = 0;

void expect_chunks(const char* what, std::int64_t T, std::int64_t lanes, int multiprocessors,
                   std::int64_t chunks) {
  const ScanPlan plan = plan_scan(T, lanes, multiprocessors);
  if (plan.chunks == chunks) return;
  std::printf("FAILED: %s: %d chunks, expected %d\n", what, int(plan.chunks), int(chunks));
  ++failed;
}

// The chunks hold every step, and none is empty.
void expect_whole(std::int64_t T, std::int64_t lanes, int multiprocessors) {
  const ScanPlan p = plan_scan(T, lanes, multiprocessors);
  if (p.chunks >= 1 && p.steps >= 1 && p.chunks * p.steps >= T &&
      (p.chunks == 1 || (p.chunks - 1) * p.steps < T)) {
    return;
  }
  std::printf("FAILED: T %d, %d lanes: %d chunks of %d\n", int(T), int(lanes), int(p.chunks),
              int(p.steps));
  ++failed;
}

}  // namespace

int main() {
  expect_chunks("lanes fill the card", 1 << 20, 64 * kHopper, kHopper, 1);
  expect_chunks("one lane fewer", 1 << 20, 64 * kHopper - 1, kHopper, 5);
  expect_chunks("a smaller card", 1 << 20, 64 * kSmall, kSmall, 1);
  expect_chunks("one lane", 1 << 20, 1, kHopper, 2048);
  expect_chunks("steps are few", 255, 1, kHopper, 1);
  expect_chunks("steps for four", 256, 1, kHopper, 4);
  expect_chunks("steps for some", 4096, 16, kHopper, 64);
  for (const int multiprocessors : {1, kSmall, kHopper}) {
    for (const std::int64_t lanes : {0, 1, 31, 700, 8000, 1 << 20}) {
      for (std::int64_t T = 0; T < 3000; T += 1 + T / 7) expect_whole(T, lanes, multiprocessors);
    }
  }
  std::printf(failed ? "%d failed\n" : "the plan of a scan: ok\n", failed);
  return failed != 0;
}
