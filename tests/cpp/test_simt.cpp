// The emulator's own tests: right kernels give right results under every order, and every fault
// that it promises to report is planted once.
#include <cstdio>
#include <random>

#include "simt/ptx.h"

namespace {

using namespace fastcells;
using ptx::Shared;

constexpr unsigned kSeeds = 5;

bool report(const char* name, bool is_ok, const std::string& detail = "") {
  std::printf("%-40s %s %s\n", name, is_ok ? "ok" : "FAILED", detail.c_str());
  return is_ok;
}

// ---- a cluster RNN: h = tanh(x + W h), every block its units, h sent to all ----

constexpr int kUnits = 32, kBlocks = 4, kOwn = kUnits / kBlocks, kSteps = 9;

enum class Fault { kNone, kNoWait, kNoInit, kOneBuffer };

struct ClusterRnn {
  const float *w, *x;  // [H, H], [T, H]
  float* y;            // [T, H]
  Fault fault;

  void operator()() const {
    const auto weights = ptx::shared_array<float>(0, kOwn * kUnits);
    const auto h = ptx::shared_array<float>(4 * kOwn * kUnits, 2 * kUnits);
    const auto full = ptx::shared_array<ptx::Transactions>(4 * kOwn * kUnits + 8 * kUnits, 2);
    const int t = int(threadIdx.x), first = int(ptx::cluster_rank()) * kOwn;
    for (int i = t; i < kOwn * kUnits; i += int(blockDim.x)) weights[i] = w[first * kUnits + i];
    if (t < kUnits && fault != Fault::kNoInit) h[t] = 0.0f;
    if (t == 0) {
      for (int b = 0; b < 2; ++b) ptx::transactions_init(full + b, 1);
    }
    ptx::cluster_sync();
    for (int step = 0; step < kSteps; ++step) {
      const int now = fault == Fault::kOneBuffer ? 0 : step % 2;
      const int next = fault == Fault::kOneBuffer ? 0 : 1 - now;
      if (t == 0) ptx::arrive_expecting(full + next, kUnits * sizeof(float));
      if (t < kOwn) {
        float sum = x[step * kUnits + first + t];
        for (int k = 0; k < kUnits; ++k) sum += weights[t * kUnits + k] * h[now * kUnits + k];
        y[step * kUnits + first + t] = sum = std::tanh(sum);
        for (unsigned peer = 0; peer < ptx::cluster_size(); ++peer) {
          ptx::store_async(h + next * kUnits + first + t, sum, full + next, peer);
        }
      }
      const bool is_skipped = fault == Fault::kNoWait && step == 3;
      if (!is_skipped)
        ptx::wait(full + next, unsigned(step / (fault == Fault::kOneBuffer ? 1 : 2)) % 2);
    }
    ptx::cluster_sync();
  }
};

struct Numbers {
  std::vector<float> w, x, y, expected;
  Numbers() : w(kUnits * kUnits), x(kSteps * kUnits), y(x.size(), NAN), expected(x.size()) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& value : w) value = 0.2f * normal(random);
    for (float& value : x) value = normal(random);
    std::vector<float> h(kUnits, 0.0f);
    for (int t = 0; t < kSteps; ++t) {
      float* const row = &expected[t * kUnits];
      for (int i = 0; i < kUnits; ++i) {
        float sum = x[t * kUnits + i];
        for (int k = 0; k < kUnits; ++k) sum += w[i * kUnits + k] * h[k];
        row[i] = std::tanh(sum);
      }
      std::copy_n(row, kUnits, h.begin());
    }
  }
  float worst() const {
    float error = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const float difference = std::fabs(y[i] - expected[i]);
      if (!(difference <= error)) error = difference;
    }
    return error;
  }
  void run(Fault fault, unsigned seed) {
    constexpr std::size_t kShared = 4 * kOwn * kUnits + 8 * kUnits + 16;
    simt::launch(2 * kBlocks, 32, kShared, {seed, kBlocks},
                 ClusterRnn{w.data(), x.data(), y.data(), fault});
  }
};

bool check_cluster() {
  bool ok = true;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    Numbers numbers;
    numbers.run(Fault::kNone, seed);
    ok = ok && numbers.worst() < 1e-6f;
  }
  return report("a cluster RNN", ok);
}

// ---- whole grid: a sum handed from block to block by counters ----

constexpr unsigned kChain = 6;

struct GridChain {
  unsigned* counters;  // [blocks]
  uint4* sum;
  bool waits = true, publishes_last = true;
  void operator()() const {
    const unsigned b = blockIdx.x;
    if (!publishes_last && threadIdx.x == 1) ptx::add_release(counters + b);
    if (waits && b > 0) ptx::wait_for_count(counters + b - 1, 1);
    if (threadIdx.x == 0) {
      const uint4 before = ptx::load_global(sum);
      ptx::store_global(sum, uint4{before.x + b, 0, 0, 0});
    }
    __syncthreads();
    if (publishes_last && threadIdx.x == 1) ptx::add_release(counters + b);
  }
};

uint4 run_chain(unsigned seed, bool waits = true, bool publishes_last = true) {
  std::vector<unsigned> counters(kChain);
  uint4 sum{};
  simt::launch(kChain, 32, 0, {seed, 1, true},
               GridChain{counters.data(), &sum, waits, publishes_last});
  return sum;
}

bool check_grid() {
  bool ok = true;
  for (unsigned seed = 0; seed < kSeeds; ++seed) ok = ok && run_chain(seed).x == 15;
  return report("a cooperative grid", ok);
}

// ---- warps ----

template <class T>
struct Mma {
  const T *a, *b;  // [16, 16], [8, 16]
  float* d;        // [16, 8]
  void operator()() const {
    const auto tile = ptx::shared_array<std::uint16_t>(0, 256);
    const unsigned l = threadIdx.x;
    for (unsigned i = l; i < 256; i += 32) {
      std::uint16_t bits;
      std::memcpy(&bits, a + i, sizeof bits);
      tile[i] = bits;
    }
    __syncwarp();
    unsigned fragment_a[4], fragment_b[2];
    // Matrices in the order of the registers: rows 0-7 and 8-15 of the first eight columns, then of
    // the others.
    ptx::load_matrices(fragment_a, tile + (l % 8 + l / 8 % 2 * 8) * 16 + l / 16 * 8);
    for (unsigned r = 0; r < 2; ++r)
      std::memcpy(&fragment_b[r], b + l / 4 * 16 + l % 4 * 2 + r * 8, 4);
    float sums[4] = {};
    ptx::mma_m16n8k16<T>(sums, fragment_a, fragment_b);
    for (unsigned e = 0; e < 4; ++e) d[(l / 4 + e / 2 * 8) * 8 + l % 4 * 2 + e % 2] = sums[e];
  }
};

// [16, 8] x [8, 8] of float32, rounded or not.
bool check_tf32() {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> a(128), b(64), d(128, NAN);
  for (float& value : a) value = normal(random);
  for (float& value : b) value = normal(random);
  const auto word = [](float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return ptx::round_to_tf32(bits);
  };
  simt::launch(1, 32, 0, {}, [&] {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const unsigned fragment_a[4] = {word(a[g * 8 + t]), word(a[(g + 8) * 8 + t]),
                                    word(a[g * 8 + t + 4]), word(a[(g + 8) * 8 + t + 4])};
    const unsigned fragment_b[2] = {word(b[g * 8 + t]), word(b[g * 8 + t + 4])};
    float sums[4] = {};
    ptx::mma_m16n8k8_tf32(sums, fragment_a, fragment_b);
    for (unsigned e = 0; e < 4; ++e) d[(g + e / 2 * 8) * 8 + t * 2 + e % 2] = sums[e];
  });
  float worst = 0;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 8; ++k) sum += a[i * 8 + k] * b[j * 8 + k];
      worst = std::fmax(worst, std::fabs(sum - d[i * 8 + j]));
    }
  }
  return report("mma.m16n8k8, TF32", worst < 5e-3f && worst > 1e-5f);  // eleven bits, not 24
}

template <class T>
bool check_mma(const char* name) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<T> a(256), b(128);
  for (T& value : a) value = T(normal(random));
  for (T& value : b) value = T(normal(random));
  std::vector<float> d(128, NAN);
  simt::launch(1, 32, 512, {}, Mma<T>{a.data(), b.data(), d.data()});
  float worst = 0;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += float(a[i * 16 + k]) * float(b[j * 16 + k]);
      worst = std::fmax(worst, std::fabs(sum - d[i * 8 + j]));
    }
  }
  return report(name, worst < 1e-5f);
}

bool check_shuffles() {
  std::vector<int> sums(64);
  simt::launch(2, 32, 0, {}, [&] {
    int sum = int(threadIdx.x);
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    const int next = __shfl_down_sync(0xffffffffu, int(threadIdx.x), 1);
    sums[blockIdx.x * 32 + threadIdx.x] = sum + next + __shfl_sync(0xffffffffu, next, 5);
  });
  bool ok = true;
  for (int i = 0; i < 64; ++i) ok = ok && sums[i] == 496 + std::min(i % 32 + 1, 31) + 6;
  return report("shuffles", ok);
}

bool check_copies() {
  alignas(16) float from[64];
  for (int i = 0; i < 64; ++i) from[i] = float(i);
  std::vector<float> to(64);
  simt::launch(1, 16, 256, {}, [&] {
    const auto stage = ptx::shared_array<float>(0, 64);
    ptx::copy_async(stage + 4 * threadIdx.x, from + 4 * threadIdx.x);
    ptx::commit_copies();
    ptx::wait_copies<0>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) to[4 * threadIdx.x + i] = stage[63 - 4 * threadIdx.x - i];
  });
  bool ok = true;
  for (int i = 0; i < 64; ++i) ok = ok && to[i] == float(63 - i);
  return report("asynchronous copies", ok);
}

// ---- planted faults ----

// `run` must be stopped, with `text` in the report, whatever the order.
template <class Run>
bool is_reported(const char* name, const char* text, const Run& run) {
  std::string told = "nothing was reported";
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    told = "nothing was reported";
    try {
      run(seed);
    } catch (const simt::Fault& fault) {
      told = fault.what();
    }
    if (told.find(text) == std::string::npos) return report(name, false, told);
  }
  return report(name, true);
}

// A kernel of one block of 64 threads with an array of 64 floats.
template <class Body>
auto block_of(const Body& body) {
  return [body](unsigned seed) {
    simt::launch(1, 64, 256, {seed},
                 [&] { body(ptx::shared_array<float>(0, 64), int(threadIdx.x)); });
  };
}

using Array = Shared<float>;

bool check_memory_faults() {
  bool ok = is_reported("a missing barrier, write then read", "without order",
                        block_of([](Array a, int t) {
                          a[t] = 0.0f;
                          __syncthreads();
                          a[t] = 1.0f;
                          if (t % 2 == 0) (void)float(a[t + 1]);
                          if (t % 2 == 1) (void)float(a[t - 1]);
                        }));
  ok &= is_reported("a missing barrier, read then write", "without order",
                    block_of([](Array a, int t) {
                      a[t] = 1.0f;
                      __syncthreads();
                      const float next = a[(t + 1) % 64];
                      a[t] = next;
                    }));
  ok &= is_reported("a shuffle in the place of a barrier", "without order",
                    block_of([](Array a, int t) {
                      a[t] = 1.0f;
                      (void)__shfl_xor_sync(0xffffffffu, t, 1);
                      (void)float(a[t ^ 1]);
                    }));
  ok &= is_reported("two writers", "without order after the write",
                    block_of([](Array a, int t) { a[t / 2] = 1.0f; }));
  ok &= is_reported("never written", "never written",
                    block_of([](Array a, int t) { (void)float(a[t]); }));
  ok &= is_reported("behind the array", "out of bounds",
                    block_of([](Array a, int t) { a[t + 1] = 1.0f; }));
  ok &= is_reported("in front of the array", "out of bounds",
                    block_of([](Array a, int t) { a[t - 1] = 1.0f; }));
  ok &= is_reported("a misaligned address", "misaligned",
                    block_of([](Array a, int) { ptx::shared_cast<uint4>(a + 1)[0] = uint4{}; }));
  ok &= is_reported("more shared memory than launched with", "was launched with",
                    block_of([](Array, int) { (void)ptx::shared_array<float>(0, 65); }));
  return ok;
}

bool check_barrier_faults() {
  bool ok = is_reported("a barrier for some threads only", "deadlock", block_of([](Array, int t) {
                          if (t < 63) __syncthreads();
                        }));
  ok &= is_reported("an mbarrier without arrivals", "deadlock", block_of([](Array a, int t) {
                      const auto barrier = ptx::shared_cast<ptx::Transactions>(a);
                      if (t == 0) ptx::transactions_init(barrier, 1);
                      __syncthreads();
                      ptx::wait(barrier, 0);
                    }));
  ok &= is_reported("no mbarrier at all", "is none", block_of([](Array a, int) {
                      ptx::wait(ptx::shared_cast<ptx::Transactions>(a), 0);
                    }));
  ok &= is_reported("too many arrivals", "more arrivals", block_of([](Array a, int t) {
                      const auto barrier = ptx::shared_cast<ptx::Transactions>(a);
                      if (t == 0) ptx::transactions_init(barrier, 1);
                      __syncthreads();
                      ptx::arrive_expecting(barrier, 8);
                    }));
  return ok;
}

bool check_asynchronous_faults() {
  bool ok = is_reported("an asynchronous copy not waited for", "without order", [](unsigned seed) {
    alignas(16) static float from[4] = {1, 2, 3, 4};
    simt::launch(1, 1, 16, {seed}, [] {
      const auto stage = ptx::shared_array<float>(0, 4);
      ptx::copy_async(stage, from);
      ptx::commit_copies();
      (void)float(stage[0]);
    });
  });
  ok &= is_reported("a copy waited for by its thread alone", "without order", [](unsigned seed) {
    alignas(16) static float from[4] = {1, 2, 3, 4};
    simt::launch(1, 2, 16, {seed}, [] {
      const auto stage = ptx::shared_array<float>(0, 4);
      if (threadIdx.x == 0) {
        for (int k = 0; k < 4; ++k) stage[k] = 0.0f;
      }
      __syncthreads();
      if (threadIdx.x == 0) ptx::copy_async(stage, from);
      ptx::commit_copies();
      ptx::wait_copies<0>();
      if (threadIdx.x == 1) (void)float(stage[0]);
    });
  });
  ok &= is_reported("a step that does not wait for the exchange", "without order",
                    [](unsigned seed) { Numbers().run(Fault::kNoWait, seed); });
  ok &= is_reported("one buffer in the place of two", "without order",
                    [](unsigned seed) { Numbers().run(Fault::kOneBuffer, seed); });
  ok &= is_reported("a state that nobody set to zero", "never written",
                    [](unsigned seed) { Numbers().run(Fault::kNoInit, seed); });
  ok &= is_reported("a store to a block that has ended", "has ended", [](unsigned seed) {
    simt::launch(2, 32, 32, {seed, 2}, [] {
      if (ptx::cluster_rank() == 0) return;
      __syncthreads();
      const auto full = ptx::shared_array<ptx::Transactions>(16, 1);
      ptx::store_async(ptx::shared_array<uint4>(0, 1), uint4{}, full, 0);
    });
  });
  ok &= is_reported("a grid that does not wait for a counter", "global memory is",
                    [](unsigned seed) { run_chain(seed, false); });
  ok &= is_reported("a counter before what it speaks of", "global memory is",
                    [](unsigned seed) { run_chain(seed, true, false); });
  ok &= is_reported("a grid with a part of a cluster", "whole number of clusters",
                    [](unsigned seed) { simt::launch(3, 32, 0, {seed, 2}, [] {}); });
  return ok;
}

}  // namespace

int main() {
  bool ok = check_cluster() & check_grid() & check_shuffles() & check_copies();
  ok &= check_mma<__half>("mma.m16n8k16, float16") &
        check_mma<__nv_bfloat16>("mma.m16n8k16, bfloat16") & check_tf32();
  ok &= check_memory_faults() & check_barrier_faults() & check_asynchronous_faults();
  return ok ? 0 : 1;
}
