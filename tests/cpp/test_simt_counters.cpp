// What the emulator counts (simt/counters.h), of kernels that are made so that the count is known.
#include <cstdio>

#include "simt/ptx.h"

namespace {

using namespace fastcells;
using simt::Counters;

constexpr unsigned kSeeds = 3;
constexpr int kLanes = 32;

// Of a launch, which must not depend on the order of threads.
template <class Kernel>
Counters count(unsigned blocks, unsigned threads, std::size_t shared, simt::Options options,
               const Kernel& kernel) {
  Counters first;
  for (options.seed = 0; options.seed < kSeeds; ++options.seed) {
    Counters counters;
    options.counters = &counters;
    simt::launch(blocks, threads, shared, options, kernel);
    if (options.seed == 0) first = counters;
    if (!(counters == first)) throw simt::Fault("the count depends on the order of threads");
  }
  return first;
}

bool expect(const char* name, std::int64_t got, std::int64_t wanted) {
  std::printf("%-44s %s: %d of %d\n", name, got == wanted ? "ok" : "FAILED", int(got), int(wanted));
  return got == wanted;
}

// ---- wavefronts ----

// One warp writes elements of T, lane l the one at place(l).
template <class T, class Where>
bool expect_wavefronts(const char* name, std::int64_t wanted, Where place) {
  constexpr int kElements = 1024;
  const Counters c = count(1, kLanes, kElements * sizeof(T), {}, [&] {
    ptx::shared_array<T>(0, kElements)[place(int(threadIdx.x))] = T{};
  });
  return expect(name, c.wavefronts, wanted) & expect(name, c.operations, 1);
}

bool check_wavefronts() {
  bool ok = expect_wavefronts<float>("neighbouring words", 1, [](int l) { return l; });
  ok &= expect_wavefronts<std::uint16_t>("two lanes a word", 1, [](int l) { return l; });
  ok &= expect_wavefronts<float>("every other word", 2, [](int l) { return 2 * l; });
  ok &= expect_wavefronts<float>("odd strides", 1, [](int l) { return 3 * l; });
  ok &= expect_wavefronts<float>("a column of 32", 32, [](int l) { return 32 * l; });
  ok &= expect_wavefronts<float2>("8 bytes: two halves", 2, [](int l) { return l; });
  ok &= expect_wavefronts<uint4>("16 bytes: four quarters", 4, [](int l) { return l; });
  ok &= expect_wavefronts<uint4>("16 bytes of 32", 8, [](int l) { return 2 * l; });
  ok &= expect_wavefronts<uint4>("16 bytes, rows of 144", 4,
                                 [](int l) { return l / 8 * 8 + l % 8 * 9; });
  // Of 128 bytes a row: eight rows are in the same banks.
  ok &= expect_wavefronts<uint4>("16 bytes, rows of 128", 32, [](int l) { return l % 8 * 8; });
  return ok;
}

// Reads and writes, two warps; and lanes that take no part.
bool check_accesses() {
  const Counters c = count(1, 2 * kLanes, 512, {}, [] {
    const auto a = ptx::shared_array<float>(0, 128);
    const int t = int(threadIdx.x);
    a[t] = 1.0f;
    __syncthreads();
    if (t % 2 == 0) a[64 + t] = a[0] + a[t ^ 1];
  });
  return expect("reads and writes of two warps", c.wavefronts, 2 * 4) &
         expect("their operations", c.operations, 2 * 4);
}

bool check_matrices() {
  const Counters c = count(1, kLanes, 512, {}, [] {
    const auto tile = ptx::shared_array<std::uint16_t>(0, 256);
    for (int i = int(threadIdx.x); i < 256; i += kLanes) tile[i] = 0;
    __syncwarp();
    unsigned out[4];
    ptx::load_matrices(out, tile + int(threadIdx.x) * 8);
  });
  return expect("eight writes and four matrices", c.wavefronts, 8 + 4);
}

// ---- segments ----

// Both blocks of a cluster send 16 bytes a lane to the first, each to its own half, lanes so many
// elements apart. What the first sends is to itself.
bool expect_sent(const char* name, std::int64_t wanted, std::int64_t arrivals, int stride) {
  const Counters c = count(2, kLanes, 2064, {0, 2}, [&] {
    const auto to = ptx::shared_array<uint4>(0, 128);
    const auto full = ptx::shared_array<ptx::Transactions>(2048, 1);
    if (threadIdx.x == 0) {
      ptx::transactions_init(full, 1);
      ptx::arrive_expecting(full, ptx::cluster_rank() == 0 ? 2 * 16 * kLanes : 0);
    }
    ptx::cluster_sync();
    const int at = int(ptx::cluster_rank()) * 64 + int(threadIdx.x) * stride;
    ptx::store_async(to + at, uint4{}, full, 0);
    ptx::wait(full, 0);
    ptx::cluster_sync();
  });
  return expect(name, c.segments_sent, wanted) & expect(name, c.arrivals, arrivals);
}

// Eight lanes send 16 bytes each to every block of a cluster of four: rows of 144 or 128 bytes
// there.
bool expect_arrivals(const char* name, std::int64_t wanted, int stride) {
  const Counters c = count(4, kLanes, 4112, {0, 4}, [&] {
    const auto to = ptx::shared_array<uint4>(0, 256);
    const auto full = ptx::shared_array<ptx::Transactions>(4096, 1);
    const int rank = int(ptx::cluster_rank());
    if (threadIdx.x == 0) {
      ptx::transactions_init(full, 1);
      ptx::arrive_expecting(full, 4 * 8 * 16);
    }
    ptx::cluster_sync();
    const int row = int(threadIdx.x) / 4, peer = int(threadIdx.x) % 4;
    ptx::store_async(to + (row * stride + rank), uint4{}, full, unsigned(peer));
    ptx::wait(full, 0);
    ptx::cluster_sync();
  });
  return expect(name, c.arrivals, wanted);
}

bool check_segments() {
  bool ok = expect_sent("sent to another block, side by side", 16, 4, 1);
  ok &= expect_sent("sent to another block, 16 bytes of 32", 32, 8, 2);
  ok &= expect_arrivals("sent to three, rows of 144", 4 * 3, 9);
  ok &= expect_arrivals("sent to three, rows of 128", 4 * 3 * 8, 8);
  std::vector<uint4> memory(128);
  const auto base = (16 - reinterpret_cast<std::uintptr_t>(memory.data()) / 16 % 2) % 2;
  uint4* const at = memory.data() + base;  // of 32 bytes
  const Counters c = count(1, kLanes, 0, {0, 1, true}, [&] {
    ptx::store_global(at + threadIdx.x, uint4{});
    ptx::store_global(at + 2 * threadIdx.x, uint4{});
    (void)ptx::load_global(at + threadIdx.x / 4);
  });
  ok &= expect("written by a grid", c.segments_sent, 16 + 32);
  return ok & expect("read by a grid", c.segments_read, 4);
}

// ---- work of a single warp ----

bool check_single_warp() {
  const Counters c = count(2, 3 * kLanes, 0, {}, [] {
    const unsigned warp = threadIdx.x / kLanes;
    const auto shuffle = [&](int times) {
      for (int i = 0; i < times; ++i) (void)__shfl_xor_sync(~0u, i, 1);
    };
    shuffle(2);  // all
    __syncthreads();
    if (warp == 1) shuffle(5);  // one: these count
    __syncthreads();
    if (warp != 0) shuffle(1);  // two
    __syncthreads();
    __syncthreads();                  // none
    if (warp == 2) simt::see_work();  // one, at the end
  });
  return expect("work of a single warp", c.single_warp, 2 * (5 + 1)) &
         expect("work of all", c.operations, 2 * (3 * 2 + 5 + 2 + 1));
}

}  // namespace

int main() {
  bool ok = check_wavefronts() & check_accesses() & check_matrices();
  ok &= check_segments() & check_single_warp();
  return ok ? 0 : 1;
}
