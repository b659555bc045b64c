#include "cuda/plan.h"

#include <sstream>

namespace fastcells::cuda {
namespace {

constexpr int kMostWarps = 8;  // 255 registers a thread are left then

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Shape {
  int units, tiles;  // of a warp
  int fan;           // columns of K for each unit of the cluster
};

Shape shape_of(const Problem& p) {
  if (p.is_backward) return {kBackwardUnits, 1, p.gates};
  return {forward_units(p.gates), forward_tiles(p.gates), 1};
}

// The fewest warps for which `blocks` blocks hold all units, and K is a whole number of double
// steps.
int warps_for(const Problem& p, const Shape& s, int blocks) {
  int warps = int(divide_up(p.H, std::int64_t(blocks) * s.units));
  while (std::int64_t(s.fan) * warps * s.units * blocks % (2 * kStepK) != 0) ++warps;
  return warps;
}

// Whether `blocks` blocks a slice can hold the weights; fills in how.
bool try_blocks(const Problem& p, const Device& d, int blocks, Plan& plan) {
  const Shape s = shape_of(p);
  const int warps = warps_for(p, s, blocks);
  if (warps > kMostWarps) return false;
  const int cached = cached_steps(s.tiles), columns = s.fan * warps * s.units * blocks;
  const auto shared = SequenceShared::of(warps, s.tiles, columns, kBatchTiles, cached);
  if (shared.end > d.shared_bytes) return false;
  plan.warps = warps, plan.blocks = blocks, plan.cached = cached;
  plan.shared_bytes = shared.end, plan.slices = divide_up(p.B, kBatchTiles * kTileRows);
  return true;
}

std::string why_no_sequence(const Problem& p, const Device& d) {
  if (p.two_products) return "two products a step (reset_before)";
  if (p.is_projected) return "a projection";
  if (p.storage_bytes != 2) return "storage is not of 16 bits";
  if (d.compute < 80) return "compute capability below 8.0";
  if (p.T * p.B * p.H == 0) return "there is nothing to compute";
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
  if (try_blocks(p, d, 1, result)) {
    result.tier = Tier::kBlock;
    return result;
  }
  const std::string hidden = "H = " + std::to_string(p.H) + " needs more memory than ";
  result.why_not.push_back("one block: " + hidden + "one multiprocessor has");
  if (d.cluster_blocks < 2) {
    result.why_not.push_back("cluster: compute capability below 9.0");
    return result;
  }
  for (int blocks = 2; blocks <= d.cluster_blocks; blocks *= 2) {
    if (!try_blocks(p, d, blocks, result)) continue;
    result.tier = Tier::kCluster;
    return result;
  }
  result.why_not.push_back("cluster: " + hidden + std::to_string(d.cluster_blocks) + " have");
  return result;
}

std::string describe(const Plan& plan) {
  std::ostringstream out;
  if (plan.tier == Tier::kStepwise) {
    out << "a product and a step kernel a step";
  } else {
    if (plan.tier == Tier::kCluster) out << "clusters of " << plan.blocks << " blocks, ";
    out << plan.slices << (plan.slices == 1 ? " slice" : " slices") << " of "
        << kBatchTiles * kTileRows << " rows, " << plan.warps << " warps a block, "
        << plan.shared_bytes / 1024 << " KiB of shared memory, up to " << plan.cached * kStepK
        << " columns of weights in registers";
  }
  return out.str();
}

}  // namespace fastcells::cuda
