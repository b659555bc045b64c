// Bandwidths and latencies of what a block reads: its own shared memory, that of its cluster, the
// L2, and device memory.
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"
#include "micro_harness.cuh"

namespace fastcells::micro {

// ---- shared memory ----

constexpr int kInFlight = 16;                          // loads of a thread
constexpr int kReadBytes = kInFlight * kThreads * 16;  // of a block in one turn
constexpr int kReadTurns = 2048;

// What of 16 bytes of shared memory, in the cluster's addresses or this block's.
template <bool is_own>
FC_DEVICE unsigned load_shared(unsigned address) {
  uint4 v;
  if constexpr (is_own) {
    asm volatile("ld.shared::cta.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address));
  } else {
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address));
  }
  return v.x ^ v.y ^ v.z ^ v.w;
}

// The first `readers` blocks of a cluster read the others' memory in turn, or all their own.
template <bool is_own>
__global__ void __launch_bounds__(kThreads, 1)
    shared_read(int turns, unsigned readers, unsigned* out) {
  const auto memory = ptx::shared_array<unsigned>(0, kReadBytes / 4);
  for (int i = int(threadIdx.x); i < kReadBytes / 4; i += kThreads) memory[i] = unsigned(i);
  ptx::cluster_sync();
  const unsigned size = ptx::cluster_size(), rank = ptx::cluster_rank();
  const unsigned mine = ptx::address(memory) + threadIdx.x * 16;
  unsigned sum = 0, distance = 1;
  for (int turn = 0; rank < readers && turn < turns; ++turn) {
    unsigned from = mine;
    if constexpr (!is_own) from = ptx::peer_address(mine, (rank + distance) & (size - 1));
    FC_UNROLL
    for (int k = 0; k < kInFlight; ++k) sum += load_shared<is_own>(from + k * kThreads * 16);
    distance = distance + 1 < size ? distance + 1 : 1;
  }
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
  ptx::cluster_sync();  // no block leaves while another reads its memory
}

template <bool is_own>
void time_shared_read(Line& line, int cluster, int readers) {
  line.add("blocks", cluster).add("cluster", cluster).add("readers", readers);
  const Shape shape{cluster, kThreads, cluster, kWholeSm};
  allow(shared_read<is_own>, shape);
  const Config config(shape);
  const Memory<unsigned> out(std::size_t(cluster) * kThreads);
  const double ms = median_ms(
      [&](int) { launch(shared_read<is_own>, config, kReadTurns, unsigned(readers), out.get()); });
  line.value(double(kReadTurns) * kReadBytes / ms / 1e6, "GB/s per reading SM");
}

// ---- the L2 ----

enum class Load { kRelaxed, kCg };

template <Load load>
FC_DEVICE uint4 load_l2(const uint4* from) {
  if constexpr (load == Load::kRelaxed) return ptx::load_global(from);
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

constexpr int kL2Threads = 256, kL2InFlight = 8;

// Every block reads the whole buffer, from its beginning or, `apart`, each from a place of its own.
// `quads` is a power of two.
template <Load load>
__global__ void __launch_bounds__(kL2Threads, 2)
    l2_read(const uint4* data, int quads, int passes, bool apart, unsigned* out) {
  const int first = apart ? int(blockIdx.x * (unsigned(quads) / gridDim.x) / 8 * 8) : 0;
  unsigned sum = 0;
  for (int pass = 0; pass < passes; ++pass) {
    for (int k = int(threadIdx.x); k < quads; k += kL2InFlight * kL2Threads) {
      FC_UNROLL
      for (int u = 0; u < kL2InFlight; ++u) {
        const uint4 v = load_l2<load>(data + ((first + k + u * kL2Threads) & (quads - 1)));
        sum += v.x ^ v.y ^ v.z ^ v.w;
      }
    }
  }
  out[blockIdx.x * kL2Threads + threadIdx.x] = sum;
}

template <Load load>
void time_l2_read(Line& line, int mib, bool is_alone, bool apart) {
  const int blocks = 2 * (is_alone ? 1 : card().multiprocessors), quads = mib << 16;
  const int passes = (is_alone ? 16 : 64) / mib;
  line.add("blocks", blocks).add("mib", mib).add("apart", apart);
  const Memory<uint4> data{std::size_t(quads)};
  const Memory<unsigned> out(std::size_t(blocks) * kL2Threads);
  const Config config({blocks, kL2Threads});
  const double ms = median_ms(
      [&](int) { launch(l2_read<load>, config, data.get(), quads, passes, apart, out.get()); });
  line.value(double(blocks) * passes * quads * 16 / ms / 1e6, "GB/s");
}

// One thread, where each load has the place of the next.
template <Load load>
__global__ void chase(const uint4* data, int loads, unsigned* out) {
  unsigned at = 0;
  for (int i = 0; i < loads; ++i) at = load_l2<load>(data + at).x;
  *out = at;
}

// A cycle through `kStops` lines of a buffer: lines far apart, in all parts of the L2.
constexpr int kStops = 4096, kStopQuads = 128, kChaseLoads = 2 * kStops;

template <Load load>
void time_chase(Line& line) {
  std::vector<uint4> stops(std::size_t(kStops) * kStopQuads);
  for (unsigned i = 0; i < kStops; ++i) {  // i * 1229 + 1 mod 4096 visits all of them
    stops[std::size_t(i) * kStopQuads].x = (i * 1229 + 1) % kStops * kStopQuads;
  }
  Memory<uint4> data(stops.size());
  data.set(stops);
  const Memory<unsigned> out(1);
  const Config config({1, 1});
  const double ms =
      median_ms([&](int) { launch(chase<load>, config, data.get(), kChaseLoads, out.get()); });
  line.add("mib", double(stops.size()) * 16 / (1 << 20));
  line.value(ms * 1e6 / kChaseLoads, "ns");
}

// ---- device memory ----

__global__ void __launch_bounds__(kThreads)
    copy_quads(const uint4* from, uint4* to, long long quads) {
  constexpr int kQuads = 4;
  const long long stride = (long long)(gridDim.x) * kThreads;
  for (long long i = (long long)(blockIdx.x) * kThreads + threadIdx.x; i < quads;
       i += kQuads * stride) {
    uint4 v[kQuads];
    FC_UNROLL
    for (int k = 0; k < kQuads; ++k) {
      if (i + k * stride < quads) v[k] = __ldcs(from + i + k * stride);
    }
    FC_UNROLL
    for (int k = 0; k < kQuads; ++k) {
      if (i + k * stride < quads) __stcs(to + i + k * stride, v[k]);
    }
  }
}

inline void time_copy(Line& line, bool is_kernel) {
  constexpr std::size_t kBytes = std::size_t(2) << 30;
  line.add("buffer_bytes", double(kBytes));
  const Memory<uint4> from(kBytes / 16), to(kBytes / 16);
  const Config config({8 * card().multiprocessors});
  const double ms = median_ms([&](int) {
    if (is_kernel) {
      launch(copy_quads, config, from.get(), to.get(), (long long)(kBytes / 16));
    } else {
      check(cudaMemcpyAsync(to.get(), from.get(), kBytes, cudaMemcpyDeviceToDevice, card().stream),
            "cudaMemcpyAsync");
    }
  });
  line.value(2.0 * kBytes / ms / 1e6, "GB/s read and written");
}

template <Load load>
void add_l2(Suite& suite, const std::string& kind) {
  suite.push_back({"l2_latency/" + kind, time_chase<load>});
  for (int mib : {1, 8}) {
    for (bool is_alone : {false, true}) {
      for (bool apart : {false, true}) {
        if (is_alone && apart) continue;
        const std::string name = "l2_read/" + kind + "/" + std::to_string(mib) + "MiB" +
                                 (is_alone ? "/one_sm"
                                  : apart  ? "/apart"
                                           : "/together");
        suite.push_back(
            {name, [=](Line& line) { time_l2_read<load>(line, mib, is_alone, apart); }});
      }
    }
  }
}

inline void add_memory(Suite& suite) {
  suite.push_back({"shared_read", [](Line& line) { time_shared_read<true>(line, 1, 1); }});
  add_l2<Load::kRelaxed>(suite, "relaxed");
  add_l2<Load::kCg>(suite, "cg");
  suite.push_back({"copy/memcpy", [](Line& line) { time_copy(line, false); }});
  suite.push_back({"copy/kernel", [](Line& line) { time_copy(line, true); }});
}
// With clusters: behind all that cannot hang.
inline void add_peer_reads(Suite& suite) {
  for (int cluster : {2, 4, 8, 16}) {
    for (int readers : {1, cluster}) {
      const std::string name =
          "peer_read/" + std::to_string(cluster) + (readers == 1 ? "/one" : "/all");
      suite.push_back({name, [=](Line& line) { time_shared_read<false>(line, cluster, readers); }});
    }
  }
}

}  // namespace fastcells::micro
