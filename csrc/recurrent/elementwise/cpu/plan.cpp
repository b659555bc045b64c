#include "recurrent/elementwise/cpu/plan.h"

#include <algorithm>

namespace fastcells::elementwise {
namespace {

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Blocks of rows that make, with the panels, enough shares for many threads; of fewer rows than
// this a product's tiles are not filled.
constexpr std::int64_t kShares = 16, kLeastRows = 8;
// Frames of a chunk: more bring nothing, of fewer the products read the weights too often.
constexpr std::int64_t kLeastFrames = 64, kMostFrames = 1024;
// Rates of one thread, for a guess of the time: a product's multiply-adds and a lane's steps.
constexpr double kProductsPerSecond = 30e9, kSecondsPerLane = 2e-9;

}  // namespace

Plan plan(const Problem& p, int threads, std::int64_t cache_bytes) {
  Plan plan{};
  const std::int64_t panels = std::max<std::int64_t>(1, divide_up(p.H, p.panel_units));
  const std::int64_t wanted = std::clamp<std::int64_t>(divide_up(kShares, panels), 1,
                                                       std::max<std::int64_t>(1, p.B / kLeastRows));
  plan.block_rows = std::max<std::int64_t>(1, divide_up(p.B, wanted));
  const std::int64_t blocks = divide_up(p.B, plan.block_rows);
  const auto steps = [&](std::int64_t bytes_of_frame, std::int64_t rows) {
    const std::int64_t room = cache_bytes / 2 / bytes_of_frame;
    const std::int64_t frames = std::clamp(room, kLeastFrames, kMostFrames);
    return std::clamp<std::int64_t>(frames / rows, 1, std::max<std::int64_t>(1, p.T));
  };
  // Forward: the input and one panel's gates. Back: the input, packed, and all gates.
  const std::int64_t group = plan.block_rows >= 4 ? 1 : 4;
  plan.forward_steps = steps((p.I + group * p.panel_vectors * p.lanes) * p.bytes, plan.block_rows);
  plan.backward_steps =
      steps((2 * p.I + p.gates * p.H) * p.bytes / 2, std::max<std::int64_t>(1, p.B));
  plan.unit_threads = int(std::min<std::int64_t>(threads, panels));
  plan.row_threads = int(std::min<std::int64_t>(threads / plan.unit_threads, blocks));
  const double lanes = double(p.T) * double(p.B) * double(p.H) * p.directions;
  plan.seconds_alone = lanes * (kSecondsPerLane + p.gates * double(p.I) / kProductsPerSecond) *
                       (p.is_training ? 2 : 1);
  return plan;
}

std::string describe(const Plan& plan) {
  const int threads = plan.threads();
  return (threads == 1 ? "one thread" : std::to_string(threads) + " threads") + ", chunks of " +
         std::to_string(plan.forward_steps) + " steps";
}

}  // namespace fastcells::elementwise
