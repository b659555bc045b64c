#include "recurrent/cuda/plan.h"

#include <algorithm>
#include <sstream>

namespace fastcells::cuda {
namespace {

// A part of K with fewer steps than this is not worth the sum over parts. Not measured.
constexpr int kStepsWorthAPart = 4;
// ---- what a step takes, in microseconds ----
//
// Fitted to the medians of benchmarks/results/nvidia-h200/2026-11-27/sequence.json by
// `python -m benchmarks.gpu.fit`: over its shapes the chosen tier takes 1.3 % longer than the
// fastest. On other GPUs: estimated to have the same order. [0] is storage of 2 bytes, [1] of 4.

// Of a block or cluster: and for each KiB of weights that a block holds, each KiB that it receives,
// each doubling of its cluster, and a cluster of sixteen.
struct StepCost {
  double base, weights, received, doubling, sixteen;
};
constexpr StepCost kForwardCost[] = {{1.539, 0.0057, 0.0143, -0.0103, 0.040},
                                     {1.832, 0.0142, -0.0088, 0.1497, 0.123}};
constexpr StepCost kBackwardCost[] = {{1.662, 0.0046, 0.0710, -0.1090, 0.185},
                                      {1.570, 0.0259, -0.0200, 0.3715, 0.876}};
// Of a slice in a grid, and for each KiB of weights of a block.
struct GridCost {
  double base, weights;
};
// What it takes with packets, and a cluster with lines, is not measured: reckoned as with counters.
constexpr GridCost kGridForwardCost[] = {{3.441, 0.0144}, {4.321, 0.0214}};
constexpr GridCost kGridBackwardCost[] = {{2.442, 0.0184}, {2.516, 0.0359}};
// Of a product and a step kernel, from H = 1024, B = 64 of recurrent.json beside it, where torch's
// products are not TF32.
constexpr double kStepwiseForward[] = {8, 20}, kStepwiseBackward[] = {12, 20};

// Blocks that run at once with all of a multiprocessor's memory: clusters of four and more leave
// some multiprocessors over (cudaOccupancyMaxActiveClusters on an H200: 66, 30, 15, 7 of 132).
int blocks_at_once(const Device& d, int cluster) {
  return cluster <= 2 ? d.multiprocessors : d.multiprocessors * 23 / 25;
}

// Of the time with fewer blocks: less is gained than others may need the multiprocessors for.
constexpr double kWorthMore = 0.97;

// Bytes that a row and unit have in the largest array: four gates, or six saved values, of 4 bytes.
constexpr std::int64_t kMostStepValues = 32;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

int units_a_warp(const Problem& p) {
  return p.is_backward ? kBackwardUnits : forward_units(p.gates);
}

// What `blocks` blocks of `tier` hold for the problem, K not yet divided.
SequenceShape shape_of(const Problem& p, Tier tier, int blocks, Exchange exchange) {
  SequenceShape s{};
  s.tier = tier, s.exchange = exchange, s.storage_bytes = p.storage_bytes;
  const int units = units_a_warp(p);
  s.tiles = p.is_backward ? 1 : forward_tiles(p.gates);
  s.batch_tiles = batch_tiles(tier, p.is_backward), s.groups = units / kGroupUnits;
  s.cached = cached_steps(tier, s.tiles, p.gates, p.storage_bytes, exchange);
  s.unit_warps = int(divide_up(p.H, std::int64_t(blocks) * units)), s.parts = 1;
  s.columns = (p.is_backward ? p.gates : 1) * s.unit_warps * units * blocks;
  s.lane_values = s.batch_tiles * units / kGroupUnits * 2 * p.states;
  s.slices = divide_up(p.B, s.batch_tiles * kTileRows);
  return s;
}

// Divides K among more warps, if that is worth it or needed; false if it does not help.
bool divide_columns(SequenceShape& s, const Device& d) {
  if (s.unit_warps > kMostWarps) return false;
  const int most = std::clamp(s.steps(), 1, kMostWarps / s.unit_warps);
  s.parts = std::clamp(s.steps() / kStepsWorthAPart, 1, most);
  while (s.parts < most && SequenceShared::of(s).end > d.shared_bytes) ++s.parts;
  return SequenceShared::of(s).end <= d.shared_bytes;
}

double kib_of_weights(const Problem& p, const Plan& plan) {
  return double(p.gates * p.H * p.H * p.storage_bytes) / plan.blocks / 1024;
}

double cost_of_cluster(const Problem& p, const Device& d, const Plan& plan) {
  const StepCost& c = (p.is_backward ? kBackwardCost : kForwardCost)[p.storage_bytes == 4];
  const std::int64_t at_once = std::max(1, blocks_at_once(d, plan.blocks) / plan.blocks);
  const double waves = double(divide_up(plan.slices * p.directions, at_once));
  const std::int64_t columns = (p.is_backward ? p.gates : 1) * p.H;
  const double received = double(kTileRows * columns * p.storage_bytes) / 1024;
  double us = c.base + c.weights * kib_of_weights(p, plan);
  if (plan.blocks > 1) us += c.received * received;
  for (int n = plan.blocks; n > 1; n /= 2) us += c.doubling;
  if (plan.blocks == 16) us += c.sixteen;
  return waves * us;
}
double cost_of_grid(const Problem& p, const Plan& plan) {
  const GridCost& c = (p.is_backward ? kGridBackwardCost : kGridForwardCost)[p.storage_bytes == 4];
  return double(plan.slices) * (c.base + c.weights * kib_of_weights(p, plan));
}
double cost_of_stepwise(const Problem& p) {
  return (p.is_backward ? kStepwiseBackward : kStepwiseForward)[p.storage_bytes == 4];
}

bool try_blocks(const Problem& p, const Device& d, Tier tier, int blocks, Plan& plan,
                Exchange exchange = Exchange::kCounters) {
  SequenceShape s = shape_of(p, tier, blocks, exchange);
  if (!divide_columns(s, d)) return false;
  plan.tier = tier, plan.blocks = blocks, plan.exchange = exchange;
  plan.unit_warps = s.unit_warps, plan.parts = s.parts;
  plan.rows = s.batch_tiles * kTileRows, plan.slices = s.slices;
  plan.shared_bytes = SequenceShared::of(s).end;
  if (tier == Tier::kGrid) {
    plan.exchange_bytes = 2 * s.slices * s.exchange_bytes();
    plan.counter_words = s.has_packets() ? 0 : s.slices * kCounterWords;
  }
  plan.microseconds = tier == Tier::kGrid ? cost_of_grid(p, plan) : cost_of_cluster(p, d, plan);
  return true;
}

// As many blocks as there are multiprocessors for a direction, with as few units each as goes.
bool try_grid(const Problem& p, const Device& d, Plan& plan,
              Exchange exchange = Exchange::kCounters) {
  const int most = d.multiprocessors / p.directions;
  const int units = units_a_warp(p);
  for (int warps = 1; warps <= kMostWarps; ++warps) {
    const std::int64_t blocks = divide_up(p.H, std::int64_t(warps) * units);
    if (blocks <= most) return try_blocks(p, d, Tier::kGrid, int(blocks), plan, exchange);
  }
  return false;
}

std::string in_microseconds(double us) {
  std::ostringstream out;
  out.precision(2);
  out << "about " << us << " us a step";
  return out.str();
}

std::string why_no_sequence(const Problem& p, const Device& d) {
  if (p.is_compiled) return "a cell from equations has step kernels";
  if (p.two_products) return "two products a step (reset_before)";
  if (p.is_projected) return "a projection";
  if (p.storage_bytes == 8) return "float64";
  if (d.compute < 80) return "compute capability below 8.0";
  if (p.T * p.B * p.H == 0) return "there is nothing to compute";
  // The kernels count steps, and reckon inside one, in 32 bits.
  constexpr std::int64_t kMost = INT32_MAX;
  if (p.T >= kMost / p.B || p.B * p.H * p.directions > kMost / kMostStepValues) {
    return "more steps, or more values a step, than 32 bits count";
  }
  return "";
}

}  // namespace

Plan plan(const Problem& p, const Device& d) {
  Plan best;
  const std::string why = why_no_sequence(p, d);
  if (!why.empty()) {
    best.why_not = {"sequence kernels: " + why};
    return best;
  }
  std::vector<std::string> why_not;
  const std::string hidden = "H = " + std::to_string(p.H) + " needs more memory than ";
  // The fastest so far, and of those that do not apply the reason.
  Plan found;
  const auto offer = [&](bool fits, const std::string& reason) {
    if (!fits) return why_not.push_back(reason);
    const bool is_first = best.tier == Tier::kStepwise;
    if (is_first || found.microseconds < kWorthMore * best.microseconds) best = found;
  };
  offer(try_blocks(p, d, Tier::kBlock, 1, found),
        "one block: " + hidden + "one multiprocessor has");
  bool has_cluster = false;
  for (int blocks = 2; blocks <= d.cluster_blocks; blocks *= 2) {
    if (!try_blocks(p, d, Tier::kCluster, blocks, found)) continue;
    has_cluster = true;
    const std::int64_t with_units =
        divide_up(p.H, std::int64_t(found.unit_warps) * units_a_warp(p));
    if (with_units >= blocks) offer(true, "");  // no block without units
  }
  if (!has_cluster) {
    why_not.push_back(d.cluster_blocks < 2
                          ? "cluster: compute capability below 9.0"
                          : "cluster: " + hidden + std::to_string(d.cluster_blocks) + " have");
  }
  offer(try_grid(p, d, found), "grid: " + hidden + "the GPU has for a direction");
  const double stepwise = cost_of_stepwise(p);
  if (best.tier != Tier::kStepwise && best.microseconds > stepwise) {
    why_not.push_back(describe(best) + ": slower than " + in_microseconds(stepwise));
    best = Plan();
  }
  best.why_not = why_not;
  if (best.tier == Tier::kStepwise) best.microseconds = stepwise;
  return best;
}

std::string describe(const Plan& plan) {
  const std::string about = plan.microseconds > 0 ? ", " + in_microseconds(plan.microseconds) : "";
  if (plan.tier == Tier::kStepwise) return "a product and a step kernel a step" + about;
  std::ostringstream out;
  if (plan.tier == Tier::kCluster) {
    out << "clusters of " << plan.blocks << " blocks, ";
    if (plan.exchange == Exchange::kLines) out << "exchange by lines, ";
  }
  if (plan.tier == Tier::kGrid) {
    out << "a grid of " << plan.blocks << " blocks, exchange by "
        << (plan.exchange == Exchange::kPackets ? "packets, " : "counters, ");
  }
  out << plan.slices << (plan.slices == 1 ? " slice" : " slices") << " of " << plan.rows
      << " rows, " << plan.unit_warps << " x " << plan.parts
      << " warps a block (units x parts of K), " << plan.shared_bytes / 1024
      << " KiB of shared memory" << about;
  return out.str();
}

}  // namespace fastcells::cuda
