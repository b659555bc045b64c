#include "recurrent/cpu/plan.h"

#include <algorithm>
#include <sstream>

namespace fastcells::cpu {
namespace {

// Rounded figures of the cores this was measured on (docs/kernels/recurrent-cpu.md). Only their
// ratios matter, and only where two grids are close.
constexpr double kFlopsPerLane = 12e9;          // two multiply-adds a cycle, 80 % of them reached
constexpr double kCacheBytesPerSecond = 80e9;   // weights in the core's own cache
constexpr double kMemoryBytesPerSecond = 50e9;  // weights in the cache that cores share
constexpr double kBarrierSeconds = 1e-6;        // and the wait for the slower thread
constexpr double kTeamSeconds = 3e-6;           // to wake the threads, once a call
constexpr double kCellSecondsPerVector = 15e-9;
// Rows of an input product, which reads the weights once for all: at least so many, from the core's
// own cache and from further away.
constexpr std::int64_t kLeastFrames = 64, kLeastFramesFromAfar = 256;
constexpr std::int64_t kChunkBytes = 4 << 20;  // gradients of the gates between two weight products

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Share {
  std::int64_t rows, units;  // the largest of any thread
};

Share largest_share(const Problem& p, int row_groups, int unit_threads) {
  const std::int64_t panels = divide_up(p.H, p.panel_units);
  return {divide_up(p.B, row_groups), divide_up(panels, unit_threads) * p.panel_units};
}

// One step of one direction, by the slowest thread.
double step_seconds(const Problem& p, const Machine& m, int row_groups, int unit_threads) {
  const Share share = largest_share(p, row_groups, unit_threads);
  const double weights = double(share.units) * p.gates * p.H;
  const double flops = 2 * weights * double(share.rows);
  const double bytes = weights * p.element_bytes / p.narrowness;
  const double bandwidth =
      bytes < 0.75 * double(m.cache_bytes) ? kCacheBytesPerSecond : kMemoryBytesPerSecond;
  const double input = 2.0 * double(share.units * share.rows) * p.gates * double(p.I);
  const double cells = double(share.rows) * double(share.units) / m.lanes * kCellSecondsPerVector;
  // Added up, for the first rows wait for the weights, and the others find them in the cache.
  return (flops + input) / (kFlopsPerLane * m.lanes * p.terms) + bytes / bandwidth + cells +
         (unit_threads > 1 ? p.barriers * kBarrierSeconds : 0);
}

}  // namespace

Plan plan(const Problem& p, const Machine& m) {
  Plan best;
  double least = 0;
  for (int teams = 1; teams <= std::min(p.directions, m.threads); ++teams) {
    for (int groups = 1; teams * groups <= m.threads; ++groups) {
      for (int units = 1; teams * groups * units <= m.threads; ++units) {
        if (groups > p.B || std::int64_t(units) > divide_up(p.H, p.panel_units)) continue;
        const double step = step_seconds(p, m, groups, units) * (p.directions / double(teams));
        const bool is_alone = teams * groups * units == 1;
        const double total = step * double(p.T) + (is_alone ? 0 : kTeamSeconds);
        if (least > 0 && total >= least) continue;
        least = total;
        best.direction_teams = teams, best.row_groups = groups, best.unit_threads = units;
        best.step_seconds = step;
      }
    }
  }
  const Share share = largest_share(p, best.row_groups, best.unit_threads);
  const std::int64_t frame_bytes = share.units * p.gates * p.element_bytes;
  const std::int64_t fitting = m.cache_bytes / 4 / std::max<std::int64_t>(1, frame_bytes);
  const std::int64_t all = p.T * share.rows;
  const bool is_afar = share.units * p.gates * p.I * p.element_bytes > m.cache_bytes;
  best.forward_frames = std::max(
      share.rows, std::min(all, std::clamp<std::int64_t>(
                                    fitting, is_afar ? kLeastFramesFromAfar : kLeastFrames, 512)));
  const std::int64_t gates_bytes = std::max<std::int64_t>(1, p.gates * p.H * p.element_bytes);
  best.backward_frames = std::max(
      p.B, std::min(p.T * p.B, std::clamp<std::int64_t>(kChunkBytes / gates_bytes, 256, 4096)));
  return best;
}

std::string describe(const Plan& plan, bool is_training) {
  std::ostringstream out;
  if (plan.threads() == 1) {
    out << "one thread";
  } else {
    out << plan.threads() << " threads:";
    const char* comma = " ";
    const auto part = [&](int count, const char* what) {
      if (count == 1) return;
      out << comma << count << " " << what, comma = ", each of ";
    };
    part(plan.direction_teams, "directions at once");
    part(plan.row_groups, "groups of rows");
    part(plan.unit_threads, "threads that share the units, a barrier a step");
  }
  out << "; input product over " << plan.forward_frames << " rows at once";
  if (is_training) out << "; weight gradients over " << plan.backward_frames;
  return out.str();
}

}  // namespace fastcells::cpu
