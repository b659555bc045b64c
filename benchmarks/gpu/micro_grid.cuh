// How long the blocks of a cooperative grid, one to an SM, need until each knows that all others
// have come so far; and until each has 1 KiB of every other.
//
// Steps are counted on from launch to launch, so that no flag is ever set back. Data takes turns in
// two buffers: who has seen all blocks come to a step knows that they have read the step before it,
// and may write over that.
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"
#include "micro_harness.cuh"

namespace fastcells::micro {

// ---- signs that a block has come ----

// Who waits for flags of the blocks, and how; or one counter.
enum class Way {
  kAllAcquire,   // all threads share the flags, by acquiring loads
  kAllRelaxed,   // by relaxed loads, and a fence at the end, as sequence_block.cuh does
  kWarpRelaxed,  // the first warp alone, likewise
  kCounter,      // one thread, for a counter that each block has added to
};

struct Flags {
  unsigned* at;
  int per_block;  // 1: by its first thread; 8: by every warp
  int stride;     // words from flag to flag

  FC_DEVICE unsigned* flag(int k) const { return at + k * stride; }
};

FC_DEVICE unsigned load_relaxed(const unsigned* from) {
  unsigned value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
FC_DEVICE unsigned load_acquire(const unsigned* from) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
FC_DEVICE void store_release(unsigned* to, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
FC_DEVICE void add_release(unsigned* to, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
FC_DEVICE void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
// Both may have wrapped around.
FC_DEVICE bool is_before(unsigned value, unsigned least) { return int(value - least) < 0; }

// By all threads, behind a barrier of the block.
template <Way way>
FC_DEVICE void arrive(const Flags& flags, unsigned step) {
  if constexpr (way == Way::kCounter) {
    if (threadIdx.x == 0) add_release(flags.at, 1);
  } else {
    const int thread = int(threadIdx.x), threads_a_flag = kThreads / flags.per_block;
    if (thread % threads_a_flag == 0) {
      const int k = int(blockIdx.x) * flags.per_block + thread / threads_a_flag;
      store_release(flags.flag(k), step);
    }
  }
}

constexpr int kFlagsALane = 4;  // whose loads are under way together

FC_DEVICE void wait_as_warp(const Flags& flags, int count, unsigned step) {
  for (int first = int(threadIdx.x); first < count; first += 32 * kFlagsALane) {
    bool is_late;
    do {
      unsigned seen[kFlagsALane];
      FC_UNROLL
      for (int u = 0; u < kFlagsALane; ++u) {
        const int k = first + 32 * u;
        seen[u] = k < count ? load_relaxed(flags.flag(k)) : step;
      }
      is_late = false;
      FC_UNROLL
      for (int u = 0; u < kFlagsALane; ++u) is_late |= is_before(seen[u], step);
    } while (is_late);
  }
}

// Until all blocks have arrived. A barrier of the block, too.
template <Way way>
FC_DEVICE void await(const Flags& flags, unsigned step) {
  const int count = int(gridDim.x) * flags.per_block, thread = int(threadIdx.x);
  if constexpr (way == Way::kCounter) {
    if (thread == 0) {
      while (is_before(load_relaxed(flags.at), step * gridDim.x)) continue;
      fence();
    }
  } else if constexpr (way == Way::kWarpRelaxed) {
    if (thread < 32) {
      wait_as_warp(flags, count, step);
      __syncwarp();
      fence();
    }
  } else if constexpr (way == Way::kAllRelaxed) {
    for (int k = thread; k < count; k += kThreads) {
      while (is_before(load_relaxed(flags.flag(k)), step)) continue;
    }
    if (thread < count) fence();
  } else {
    for (int k = thread; k < count; k += kThreads) {
      while (is_before(load_acquire(flags.flag(k)), step)) continue;
    }
  }
  __syncthreads();
}

template <Way way>
__global__ void __launch_bounds__(kThreads, 1)
    grid_barrier(Flags flags, unsigned first, int steps) {
  for (int i = 1; i <= steps; ++i) {
    arrive<way>(flags, first + i);
    await<way>(flags, first + i);
  }
}

// ---- data ----

constexpr int kPackets = 64;  // of 16 bytes, by a block in a step
constexpr int kBatch = 8;     // of a thread's, whose loads are under way together

// Bits in which a packet of this step is not as it was sent.
FC_DEVICE unsigned difference(const uint4& packet, unsigned step) {
  return (packet.x ^ step) | (packet.y ^ step) | (packet.z ^ step) | (packet.w ^ step);
}

// All blocks' packets, by all threads. Tagged ones are looked at until they are this step's.
template <bool is_tagged>
FC_DEVICE unsigned read_packets(const uint4* buffer, unsigned step) {
  const int count = int(gridDim.x) * kPackets;  // a multiple of kBatch * kThreads
  unsigned wrong = 0;
  for (int k = int(threadIdx.x); k < count; k += kBatch * kThreads) {
    uint4 packets[kBatch];
    FC_UNROLL
    for (int u = 0; u < kBatch; ++u) packets[u] = ptx::load_global(buffer + k + u * kThreads);
    bool is_late = is_tagged;
    while (is_late) {
      is_late = false;
      FC_UNROLL
      for (int u = 0; u < kBatch; ++u) {
        if (packets[u].w == step) continue;
        packets[u] = ptx::load_global(buffer + k + u * kThreads);
        is_late = true;
      }
    }
    FC_UNROLL
    for (int u = 0; u < kBatch; ++u) wrong |= difference(packets[u], step);
  }
  return wrong;
}
FC_DEVICE void write_packets(uint4* buffer, unsigned step) {
  const int thread = int(threadIdx.x);
  if (thread < kPackets) {
    ptx::store_global(buffer + int(blockIdx.x) * kPackets + thread, {step, step, step, step});
  }
}
FC_DEVICE uint4* step_buffer(uint4* buffers, unsigned step) {
  return buffers + (step & 1) * (gridDim.x * kPackets);
}

template <Way way>
__global__ void __launch_bounds__(kThreads, 1)
    grid_exchange(uint4* buffers, Flags flags, unsigned first, int steps, unsigned* wrong) {
  unsigned bits = 0;
  for (int i = 1; i <= steps; ++i) {
    const unsigned step = first + i;
    write_packets(step_buffer(buffers, step), step);
    __syncthreads();
    arrive<way>(flags, step);
    await<way>(flags, step);
    bits |= read_packets<false>(step_buffer(buffers, step), step);
  }
  if (bits) atomicAdd(wrong, 1);
}
__global__ void __launch_bounds__(kThreads, 1)
    grid_packets(uint4* buffers, unsigned first, int steps, unsigned* wrong) {
  unsigned bits = 0;
  for (int i = 1; i <= steps; ++i) {
    const unsigned step = first + i;
    write_packets(step_buffer(buffers, step), step);
    bits |= read_packets<true>(step_buffer(buffers, step), step);
    __syncthreads();  // who sees the next packets knows that all threads have read these
  }
  if (bits) atomicAdd(wrong, 1);
}

// ---- times ----

constexpr int kBarrierSteps = 2000, kExchangeSteps = 1000;

inline Shape grid_shape(int blocks) { return {blocks, kThreads, 1, kWholeSm, true}; }

template <Way way>
void time_barrier(Line& line, int blocks, int per_block, int stride) {
  line.add("blocks", blocks).add("flags_per_block", per_block).add("flag_stride_bytes", 4 * stride);
  allow(grid_barrier<way>, grid_shape(blocks));
  const Config config(grid_shape(blocks));
  const Memory<unsigned> memory(std::size_t(blocks) * per_block * stride);
  const Flags flags{memory.get(), per_block, stride};
  const double ms = median_ms([&](int round) {
    launch(grid_barrier<way>, config, flags, unsigned(round * kBarrierSteps), kBarrierSteps);
  });
  line.value(ms * 1e6 / kBarrierSteps, "ns");
}

// With flags of the blocks, or tags in the packets.
template <bool is_tagged, Way way>
void time_exchange(Line& line, int blocks) {
  line.add("blocks", blocks).add("bytes_per_block", 16 * kPackets);
  const Config config(grid_shape(blocks));
  const Memory<uint4> buffers(std::size_t(2) * blocks * kPackets);
  const Memory<unsigned> memory(blocks), wrong(1);
  const Flags flags{memory.get(), 1, 1};
  if constexpr (is_tagged) {
    allow(grid_packets, grid_shape(blocks));
  } else {
    allow(grid_exchange<way>, grid_shape(blocks));
  }
  const double ms = median_ms([&](int round) {
    const unsigned first = unsigned(round * kExchangeSteps);
    if constexpr (is_tagged) {
      launch(grid_packets, config, buffers.get(), first, kExchangeSteps, wrong.get());
    } else {
      launch(grid_exchange<way>, config, buffers.get(), flags, first, kExchangeSteps, wrong.get());
    }
  });
  line.add("wrong_threads", wrong.read()[0]);
  line.value(ms * 1e6 / kExchangeSteps, "ns");
}

template <Way way>
void add_way(Suite& suite, const std::string& kind, const std::vector<int>& flags_per_block) {
  for (int blocks : {32, 64, 96, 128}) {
    const std::string behind = kind + "/" + std::to_string(blocks);
    for (int per_block : flags_per_block) {
      for (int stride : {1, 8}) {
        if (way == Way::kCounter && stride > 1) continue;
        const std::string name = "grid_barrier/" + behind + "/" + std::to_string(per_block) + "x" +
                                 std::to_string(4 * stride) + "B";
        suite.push_back(
            {name, [=](Line& line) { time_barrier<way>(line, blocks, per_block, stride); }});
      }
    }
    suite.push_back(
        {"grid_exchange/" + behind, [=](Line& line) { time_exchange<false, way>(line, blocks); }});
  }
}

inline void add_grids(Suite& suite) {
  add_way<Way::kAllAcquire>(suite, "all_acquire", {1, 8});
  add_way<Way::kAllRelaxed>(suite, "all_relaxed", {1, 8});
  add_way<Way::kWarpRelaxed>(suite, "warp_relaxed", {1});
  add_way<Way::kCounter>(suite, "counter", {1});
  for (int blocks : {32, 64, 96, 128}) {
    suite.push_back({"grid_exchange/packets/" + std::to_string(blocks),
                     [=](Line& line) { time_exchange<true, Way::kCounter>(line, blocks); }});
  }
}

}  // namespace fastcells::micro
