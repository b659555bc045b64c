#include "recurrent/cuda/plan.h"

#include <algorithm>
#include <sstream>

namespace fastcells::cuda {
namespace {

// A part of K with fewer steps than this is not worth the sum over parts. Not measured.
constexpr int kStepsWorthAPart = 4;
// More rows than this fill the GPU with the product of one step. Not measured.
constexpr std::int64_t kGridRows = 256;

// Bytes that a row and unit have in the largest array: four gates, or six saved values, of 4 bytes.
constexpr std::int64_t kMostStepValues = 32;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// What `blocks` blocks of `tier` hold for the problem, K not yet divided.
SequenceShape shape_of(const Problem& p, Tier tier, int blocks) {
  SequenceShape s{};
  s.tier = tier, s.storage_bytes = p.storage_bytes;
  const int units = p.is_backward ? kBackwardUnits : forward_units(p.gates);
  s.tiles = p.is_backward ? 1 : forward_tiles(p.gates);
  s.batch_tiles = batch_tiles(tier, p.is_backward), s.groups = units / kGroupUnits;
  s.cached = cached_steps(tier, s.tiles, p.gates, p.storage_bytes);
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

bool try_blocks(const Problem& p, const Device& d, Tier tier, int blocks, Plan& plan) {
  SequenceShape s = shape_of(p, tier, blocks);
  if (!divide_columns(s, d)) return false;
  plan.tier = tier, plan.blocks = blocks;
  plan.unit_warps = s.unit_warps, plan.parts = s.parts;
  plan.rows = s.batch_tiles * kTileRows, plan.slices = s.slices;
  plan.shared_bytes = SequenceShared::of(s).end;
  if (tier == Tier::kGrid) {
    plan.exchange_bytes = 2 * s.slices * s.exchange_bytes();
    plan.flags = blocks * s.unit_warps * s.owners();
  }
  return true;
}

bool try_clusters(const Problem& p, const Device& d, Plan& plan) {
  for (int blocks = 2; blocks <= d.cluster_blocks; blocks *= 2) {
    if (try_blocks(p, d, Tier::kCluster, blocks, plan)) return true;
  }
  return false;
}

// As many blocks as there are multiprocessors for a direction, with as few units each as goes.
bool try_grid(const Problem& p, const Device& d, Plan& plan) {
  const int most = d.multiprocessors / p.directions;
  const int units = p.is_backward ? kBackwardUnits : forward_units(p.gates);
  for (int warps = 1; warps <= kMostWarps; ++warps) {
    const std::int64_t blocks = divide_up(p.H, std::int64_t(warps) * units);
    if (blocks <= most) return try_blocks(p, d, Tier::kGrid, int(blocks), plan);
  }
  return false;
}

std::string why_no_sequence(const Problem& p, const Device& d) {
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
  Plan result;
  const std::string why = why_no_sequence(p, d);
  if (!why.empty()) {
    result.why_not = {"sequence kernels: " + why};
    return result;
  }
  if (try_blocks(p, d, Tier::kBlock, 1, result)) return result;
  const std::string hidden = "H = " + std::to_string(p.H) + " needs more memory than ";
  result.why_not.push_back("one block: " + hidden + "one multiprocessor has");
  if (try_clusters(p, d, result)) return result;
  result.why_not.push_back(d.cluster_blocks < 2
                               ? "cluster: compute capability below 9.0"
                               : "cluster: " + hidden + std::to_string(d.cluster_blocks) + " have");
  if (p.B > kGridRows) {
    result.why_not.push_back("grid: more than " + std::to_string(kGridRows) + " rows");
  } else if (!try_grid(p, d, result)) {
    result.why_not.push_back("grid: " + hidden + "the GPU has for a direction");
  }
  return result;
}

std::string describe(const Plan& plan) {
  if (plan.tier == Tier::kStepwise) return "a product and a step kernel a step";
  std::ostringstream out;
  if (plan.tier == Tier::kCluster) out << "clusters of " << plan.blocks << " blocks, ";
  if (plan.tier == Tier::kGrid) out << "a grid of " << plan.blocks << " blocks, ";
  out << plan.slices << (plan.slices == 1 ? " slice" : " slices") << " of " << plan.rows
      << " rows, " << plan.unit_warps << " x " << plan.parts
      << " warps a block (units x parts of K), " << plan.shared_bytes / 1024
      << " KiB of shared memory";
  return out.str();
}

}  // namespace fastcells::cuda
