// Which kernels a layer gets on which GPU (cuda/plan.h): pure, so nothing runs, and no GPU is
// needed.
#include "cuda/plan.cpp"

#include <cstdio>

using namespace fastcells::cuda;

namespace {

std::string text_of(const Plan& plan) {
  std::string text = describe(plan);
  for (const std::string& reason : plan.why_not) text += "; not " + reason;
  return text;
}

// Facts of the CUDA C++ programming guide, 13.0, "Compute Capabilities": shared memory of a block
// in KiB; clusters from 9.0 on.
const Device kA100{80, 163 * 1024, 1};
const Device kAda{89, 99 * 1024, 1};
const Device kHopper{90, 227 * 1024, 8};
const Device kBlackwell{100, 227 * 1024, 8};

int failed = 0;
void expect(bool is_true, const std::string& what) {
  if (is_true) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failed;
}

Problem lstm(std::int64_t B, std::int64_t H, bool is_backward = false) {
  return {4, false, false, 2, 100, B, H, is_backward};
}

void expect_tier(const char* name, const Problem& problem, const Device& device, Tier tier,
                 int blocks) {
  const Plan found = plan(problem, device);
  expect(found.tier == tier && found.blocks == blocks,
         std::string(name) + ", H = " + std::to_string(problem.H) + ": " + text_of(found));
}

void check_table() {
  for (const bool back : {false, true}) {
    expect_tier("A100", lstm(16, 64, back), kA100, Tier::kBlock, 1);
    expect_tier("A100", lstm(16, 256, back), kA100, Tier::kStepwise, 0);
    expect_tier("Ada", lstm(16, 512, back), kAda, Tier::kStepwise, 0);
    for (const Device& device : {kHopper, kBlackwell}) {
      expect_tier("clusters", lstm(16, 64, back), device, Tier::kBlock, 1);
      expect_tier("clusters", lstm(16, 128, back), device, back ? Tier::kBlock : Tier::kCluster,
                  back ? 1 : 2);
      expect_tier("clusters", lstm(16, 256, back), device, Tier::kCluster, back ? 2 : 4);
      if (!back) expect_tier("clusters", lstm(16, 512), device, Tier::kCluster, 8);
      expect_tier("clusters", lstm(16, 1024, back), device, Tier::kStepwise, 0);
    }
  }
}

// Whatever is planned, the kernels can do: nothing is left without an owner, and nothing overflows.
void check_bounds() {
  for (const int gates : {1, 3, 4}) {
    for (const bool back : {false, true}) {
      for (std::int64_t H = 1; H <= 1100; ++H) {
        for (const Device& device : {kA100, kAda, kHopper}) {
          const Plan p = plan({gates, false, false, 2, 7, 13, H, back}, device);
          const std::string what =
              std::to_string(gates) + " gates, H = " + std::to_string(H) + ": " + text_of(p);
          if (p.tier == Tier::kStepwise) {
            expect(!p.why_not.empty(), what + ": no reason");
            continue;
          }
          const int units = p.warps * p.blocks * (back ? kBackwardUnits : forward_units(gates));
          const int columns = units * (back ? gates : 1);
          expect(units >= H && columns % 32 == 0, what);
          expect(p.warps >= 1 && p.warps <= 8 && p.blocks <= device.cluster_blocks, what);
          expect(p.shared_bytes <= device.shared_bytes && p.slices == 2, what);
          expect(p.cached == cached_steps(back ? 1 : forward_tiles(gates)), what);
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
  Problem problem = lstm(16, 64);
  problem.storage_bytes = 4;
  reason(problem, kHopper, "16 bits");
  problem = lstm(16, 64), problem.is_projected = true;
  reason(problem, kHopper, "projection");
  problem = lstm(16, 64), problem.two_products = true;
  reason(problem, kHopper, "reset_before");
  reason(lstm(0, 64), kHopper, "nothing to compute");
  reason(lstm(16, 64), {75, 64 * 1024, 1}, "below 8.0");
  reason(lstm(16, 512), kA100, "cluster: compute capability below 9.0");
  reason(lstm(16, 2048), kHopper, "H = 2048 needs more memory than 8 have");
}

}  // namespace

int main() {
  check_table();
  check_bounds();
  check_reasons();
  std::printf("%s\n", describe(plan(lstm(64, 512), kHopper)).c_str());
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}
