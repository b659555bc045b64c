// Packets under the emulator: words that arrive in any order, and what is reported of kernels that
// rely on one.
#include <cstdio>
#include <functional>

#include "simt/ptx.h"

namespace {

using namespace fastcells;

constexpr unsigned kSeeds = 8, kBlocks = 3, kSteps = 6, kLanes = 32;

bool report(const char* name, bool is_ok, const std::string& detail = "") {
  std::printf("%-44s %s %s\n", name, is_ok ? "ok" : "FAILED", detail.c_str());
  return is_ok;
}

// Every step each block adds up what all have sent, and sends that and its number, a step's tag in
// every word, into one of `buffers` buffers.
struct Sums {
  uint4* memory;  // [2, blocks, lanes]
  unsigned* sums;
  unsigned buffers = 2, words = 4;

  uint4* slot(unsigned step, unsigned block) const {
    return memory + (step % buffers * kBlocks + block) * kLanes + threadIdx.x;
  }
  void operator()() const {
    unsigned sum = 0;
    for (unsigned step = 0; step < kSteps; ++step) {
      const unsigned tag = step + 1, mine = (sum + blockIdx.x) << 8 | tag;
      ptx::store_packet(slot(step, blockIdx.x), uint4{mine, mine, mine, mine});
      ptx::Packet packets[kBlocks];
      const auto place = [&](unsigned b) {
        const uint4* const at = slot(step, b);
        return ptx::PacketPlace{at, reinterpret_cast<const uint2*>(at) + 1};
      };
      const auto is_new = [&](const ptx::Packet& p) {
        const unsigned seen[] = {p.quad.x, p.quad.y, p.quad.z, p.quad.w};
        bool all = true;
        for (unsigned k = 0; k < words; ++k) all = all && (seen[k] & 0xff) == tag;
        return all && p.rest.x == p.quad.z && p.rest.y == p.quad.w;
      };
      ptx::load_packets(packets, place, is_new);
      sum = 0;
      for (const ptx::Packet& p : packets) sum += p.quad.w >> 8;
    }
    sums[blockIdx.x * kLanes + threadIdx.x] = sum;
  }
};

void run(unsigned seed, unsigned buffers, unsigned words, std::vector<unsigned>& sums) {
  std::vector<uint4> memory(2 * kBlocks * kLanes);
  sums.assign(kBlocks * kLanes, 0);
  simt::launch(kBlocks, kLanes, 0, {seed, 1, true},
               Sums{memory.data(), sums.data(), buffers, words});
}

bool check_sums() {
  unsigned expected = 0;
  for (unsigned step = 0; step < kSteps; ++step) expected = kBlocks * expected + 3;
  bool ok = true;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    std::vector<unsigned> sums;
    run(seed, 2, 4, sums);
    for (const unsigned sum : sums) ok = ok && sum == expected;
  }
  return report("sums of packets", ok);
}

// Of a fault that depends on the order: under one of the seeds.
bool is_reported(const char* name, const char* text, const std::function<void(unsigned)>& run) {
  std::string told = "nothing was reported";
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    try {
      run(seed);
    } catch (const simt::Fault& fault) {
      told = fault.what();
      if (told.find(text) == std::string::npos) return report(name, false, told);
    }
  }
  return report(name, told.find(text) != std::string::npos, told);
}

bool check_faults() {
  std::vector<unsigned> sums;
  bool ok = is_reported("one buffer in the place of two", "packet is",
                        [&](unsigned seed) { run(seed, 1, 4, sums); });
  ok &= is_reported("a tag looked for in one word only", "while words of it are on their way",
                    [&](unsigned seed) { run(seed, 2, 1, sums); });
  ok &= is_reported("a packet that nobody sends", "deadlock", [](unsigned seed) {
    std::vector<uint4> memory(1);
    simt::launch(1, kLanes, 0, {seed, 1, true}, [&] {
      ptx::Packet packets[1];
      const auto place = [&](int) {
        return ptx::PacketPlace{memory.data(), reinterpret_cast<const uint2*>(memory.data())};
      };
      ptx::load_packets(packets, place, [](const ptx::Packet& p) { return p.quad.x != 0; });
    });
  });
  return ok;
}

}  // namespace

int main() { return check_sums() & check_faults() ? 0 : 1; }
