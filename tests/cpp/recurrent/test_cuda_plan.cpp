// Which kernels a layer gets on which GPU (recurrent/cuda/plan.h): pure, so nothing runs, and no
// GPU is needed.
#include "recurrent/cuda/plan.cpp"

#include <cstdio>

using namespace fastcells::cuda;

namespace {

std::string text_of(const Plan& plan) {
  std::string text = describe(plan);
  for (const std::string& reason : plan.why_not) text += "; not " + reason;
  return text;
}

// Facts of the CUDA C++ programming guide, 13.0, "Compute Capabilities": shared memory of a block
// in KiB; clusters from 9.0 on. Multiprocessors of an A100, RTX 4090, H100 or H200 SXM, B200.
const Device kA100{80, 163 * 1024, 1, 108};
const Device kAda{89, 99 * 1024, 1, 128};
const Device kHopper{90, 227 * 1024, 16, 132};
const Device kBlackwell{100, 227 * 1024, 8, 148};

int failed = 0;
void expect(bool is_true, const std::string& what) {
  if (is_true) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failed;
}

constexpr int kFloat16 = 2, kFloat32 = 4;

Problem make(int gates, std::int64_t B, std::int64_t H, bool is_backward = false,
             int bytes = kFloat16) {
  return {gates, gates == 4 ? 2 : 1, false, false, bytes, 1, 100, B, H, is_backward};
}

void expect_tier(const char* name, const Problem& problem, const Device& device, Tier tier,
                 int blocks) {
  const Plan found = plan(problem, device);
  expect(found.tier == tier && found.blocks == blocks,
         std::string(name) + ", H = " + std::to_string(problem.H) + ": " + text_of(found));
}

void check_lstm_table() {
  for (const bool back : {false, true}) {
    expect_tier("A100", make(4, 16, 64, back), kA100, Tier::kBlock, 1);
    expect_tier("A100", make(4, 16, 256, back), kA100, Tier::kGrid, back ? 16 : 32);
    expect_tier("A100", make(4, 1, 1024, back), kA100, Tier::kGrid, 64);
    expect_tier("A100", make(4, 300, 1024, back), kA100, Tier::kStepwise, 0);
    expect_tier("Ada", make(4, 16, 2048, back), kAda, Tier::kStepwise, 0);
    // Eight clusters of sixteen do not fit at once, fifteen of eight do.
    expect_tier("Hopper", make(4, 16, 512, back), kHopper, Tier::kCluster, 16);
    expect_tier("Hopper", make(4, 64, 512, back), kHopper, Tier::kCluster, 8);
    expect_tier("Hopper", make(4, 1, 768, back), kHopper, Tier::kGrid, back ? 48 : 96);
    expect_tier("Hopper", make(4, 128, 1024, back), kHopper, Tier::kStepwise, 0);
    expect_tier("Blackwell", make(4, 16, 512, back), kBlackwell, Tier::kCluster, 8);
  }
  expect_tier("Hopper", make(4, 16, 3072), kHopper, Tier::kStepwise, 0);
}

void check_other_tables() {
  for (const bool back : {false, true}) {
    expect_tier("GRU", make(3, 16, 512, back), kHopper, Tier::kCluster, 16);
    expect_tier("GRU", make(3, 64, 512, back), kHopper, Tier::kCluster, 8);
    expect_tier("float32", make(3, 1, 1024, back, kFloat32), kHopper, Tier::kGrid, 64);
    Problem both = make(4, 1, 1024, back);
    both.directions = 2;  // at once: half of the multiprocessors for each
    expect_tier("two directions", both, kHopper, Tier::kGrid, 64);
  }
}

// The plan takes what has run on a card: counters, and rows. Lines are for whoever asks for them.
void check_exchanges() {
  const auto expect_exchange = [](const Problem& problem, const Device& device, const char* text) {
    const Plan found = plan(problem, device);
    const bool has_packets = found.exchange == Exchange::kPackets;
    expect(text_of(found).find(text) != std::string::npos &&
               has_packets == (found.tier == Tier::kGrid && found.counter_words == 0),
           std::string(text) + " is not in: " + text_of(found));
  };
  expect_exchange(make(4, 16, 768), kHopper, "a grid of 96 blocks, exchange by counters");
  expect_exchange(make(4, 1, 1024, true), kHopper, "a grid of 64 blocks, exchange by counters");
  expect_exchange(make(4, 16, 256, true), kA100, "a grid of 16 blocks, exchange by counters");
  expect_exchange(make(4, 17, 1024), kHopper, "2 slices");
  expect_exchange(make(4, 17, 1024), kHopper, "exchange by counters");
  expect_exchange(make(4, 16, 512), kHopper, "clusters of 16 blocks, 2 slices");
  const Problem problem = make(4, 16, 512);
  Plan rows, lines;
  expect(plan(problem, kHopper).exchange != Exchange::kLines, "lines are planned");
  expect(try_blocks(problem, kHopper, Tier::kCluster, 8, rows) &&
             try_blocks(problem, kHopper, Tier::kCluster, 8, lines, Exchange::kLines),
         "a cluster of 8 does not hold H = 512");
  // Two buffers of eight rows that are padded by 64 bytes each.
  expect(rows.shared_bytes - lines.shared_bytes == 2 * 8 * 64, "lines are padded");
  expect(describe(lines).find("clusters of 8 blocks, exchange by lines, 2 slices") == 0,
         describe(lines));
}

// Whatever is planned, the kernels can do: nothing is left without an owner, and nothing overflows.
void check_plan(const Problem& problem, const Device& device) {
  const Plan p = plan(problem, device);
  const std::string what = std::to_string(problem.gates) + " gates, " +
                           std::to_string(problem.storage_bytes) +
                           " bytes, H = " + std::to_string(problem.H) + ": " + text_of(p);
  if (p.tier == Tier::kStepwise) return expect(!p.why_not.empty(), what + ": no reason");
  const int units = problem.is_backward ? kBackwardUnits : forward_units(problem.gates);
  const bool is_grid = p.tier == Tier::kGrid;
  expect(std::int64_t(p.unit_warps) * p.blocks * units >= problem.H, what);
  expect(p.unit_warps >= 1 && p.parts >= 1 && p.unit_warps * p.parts <= kMostWarps, what);
  expect(
      p.blocks <= (is_grid ? device.multiprocessors / problem.directions : device.cluster_blocks),
      what);
  expect(p.shared_bytes <= device.shared_bytes && p.slices * p.rows >= problem.B, what);
  expect(is_grid == (p.exchange_bytes > 0) && p.exchange_bytes % 16 == 0, what);
}

void check_bounds() {
  for (const int gates : {1, 3, 4}) {
    for (const int bytes : {kFloat16, kFloat32}) {
      for (std::int64_t H = 1; H <= 2300; ++H) {
        for (const Device& device : {kA100, kAda, kHopper}) {
          for (const bool back : {false, true}) {
            check_plan(make(gates, 13, H, back, bytes), device);
          }
        }
      }
    }
  }
}

void check_reasons() {
  const auto reason = [](Problem problem, const Device& device, const std::string& part) {
    const Plan found = plan(problem, device);
    expect(found.tier == Tier::kStepwise && text_of(found).find(part) != std::string::npos,
           part + " is not in: " + text_of(found));
  };
  reason(make(4, 16, 64, false, 8), kHopper, "float64");
  Problem problem = make(4, 16, 64);
  problem.is_projected = true;
  reason(problem, kHopper, "projection");
  problem.is_projected = false, problem.two_products = true;
  reason(problem, kHopper, "reset_before");
  reason(make(4, 0, 64), kHopper, "nothing to compute");
  reason(make(4, 16, 64), {75, 64 * 1024, 1, 40}, "below 8.0");
  reason(make(4, 257, 512), kA100, "a grid of 64 blocks");
  reason(make(4, 257, 512), kA100, "cluster: compute capability below 9.0");
  reason(make(4, 16, 4096), kHopper, "grid: H = 4096 needs more memory than the GPU has");
}

}  // namespace

// The largest H of each tier, as docs/kernels/recurrent-cuda.md says.
void print_limits() {
  for (const int gates : {4, 3, 1}) {
    for (const int bytes : {kFloat16, kFloat32}) {
      for (const Device& device : {kHopper, kA100}) {
        for (const bool back : {false, true}) {
          std::int64_t last[3] = {};
          for (std::int64_t H = 1; H <= 5000; ++H) {
            const Tier tier = plan(make(gates, 16, H, back, bytes), device).tier;
            if (tier != Tier::kStepwise) last[int(tier)] = H;
          }
          std::printf("%d gates, %d bytes, compute %d, %s: H up to %d in a block, %d, %d\n", gates,
                      bytes, device.compute, back ? "back" : "forward", int(last[0]), int(last[1]),
                      int(last[2]));
        }
      }
    }
  }
}

int main() {
  check_lstm_table();
  check_other_tables();
  check_exchanges();
  check_bounds();
  check_reasons();
  print_limits();
  std::printf("%s\n", describe(plan(make(4, 64, 512), kHopper)).c_str());
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}
