// How long the blocks of a cluster, one to an SM, need until each knows that all others have come
// so far; and until each has so many bytes of every block, its own among them, as the kernels of
// sequence_block.cuh send them.
//
// Exchanges take turns in two buffers, of which each has its mbarrier: who has all bytes of a step
// knows that all blocks have read those of the step before it, and may write over them.
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"
#include "micro_harness.cuh"

namespace fastcells::micro {

constexpr int kMostQuads = 256, kMostCluster = 16;
constexpr int kClusterSteps = 2000;

__global__ void __launch_bounds__(kThreads, 1) cluster_barrier(int steps) {
  for (int i = 0; i < steps; ++i) ptx::cluster_sync();
}

// Bytes of this block's shared memory to block `rank`, whose `barrier` then has so many less to
// wait for.
FC_DEVICE void copy_bulk(ptx::Shared<uint4> to, ptx::Shared<uint4> from, unsigned bytes,
                         ptx::Shared<ptx::Transactions> barrier, unsigned rank) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(ptx::peer_address(ptx::address(to), rank)),
      "r"(ptx::address(from)), "r"(bytes), "r"(ptx::peer_address(ptx::address(barrier), rank))
      : "memory");
}
// What this thread has written, for bulk copies that come behind it.
FC_DEVICE void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Where the arrays of a block lie.
struct Exchange {
  ptx::Shared<ptx::Transactions> full;  // [2]
  ptx::Shared<uint4> source;            // [2][kMostQuads], for bulk copies
  ptx::Shared<uint4> buffers;           // [2][cluster][quads]
  unsigned cluster, rank;
  int quads, senders;  // of a block to each; threads that send

  FC_DEVICE Exchange(int quads, int senders)
      : full(ptx::shared_array<ptx::Transactions>(0, 2)),
        source(ptx::shared_array<uint4>(128, 2 * kMostQuads)),
        buffers(ptx::shared_array<uint4>(128 + 2 * kMostQuads * 16, 2 * kMostCluster * kMostQuads)),
        cluster(ptx::cluster_size()),
        rank(ptx::cluster_rank()),
        quads(quads),
        senders(senders) {}
  FC_DEVICE int all_quads() const { return int(cluster) * quads; }
  FC_DEVICE ptx::Shared<uint4> buffer(int number) const { return buffers + number * all_quads(); }
  // Every block begins with another one.
  FC_DEVICE unsigned peer(unsigned i) const { return (rank + i) & (cluster - 1); }
};

FC_DEVICE uint4 payload(int step, unsigned rank) {
  const unsigned word = unsigned(step) * kMostCluster + rank;
  return {word, word, word, word};
}

FC_DEVICE void send_stores(const Exchange& e, int number, uint4 value) {
  const int thread = int(threadIdx.x);
  if (thread >= e.senders) return;
  const auto slot = e.buffer(number) + int(e.rank) * e.quads;
  for (int k = thread; k < e.quads; k += e.senders) {
    for (unsigned i = 0; i < e.cluster; ++i) {
      ptx::store_async(slot + k, value, e.full + number, e.peer(i));
    }
  }
}

// The source is free: its copies of two steps ago have come to all blocks, or this one would not
// have had their bytes of the last step.
FC_DEVICE void send_bulk(const Exchange& e, int number, uint4 value) {
  const int thread = int(threadIdx.x);
  const auto source = e.source + number * kMostQuads;
  if (thread < e.senders) {
    for (int k = thread; k < e.quads; k += e.senders) source[k] = value;
    fence_for_copies();
    __syncwarp();
  }
  if (e.senders > 32) __syncthreads();
  if (thread < int(e.cluster)) {  // a lane of the first warp a peer
    const auto slot = e.buffer(number) + int(e.rank) * e.quads;
    copy_bulk(slot, source, unsigned(16 * e.quads), e.full + number, e.peer(unsigned(thread)));
  }
}

template <bool is_bulk>
__global__ void __launch_bounds__(kThreads, 1)
    cluster_exchange(int quads, int senders, int steps, unsigned* wrong) {
  const Exchange e(quads, senders);
  if (threadIdx.x == 0) {
    ptx::transactions_init(e.full, 1);
    ptx::transactions_init(e.full + 1, 1);
  }
  ptx::cluster_sync();  // all blocks are here, and see the others' mbarriers
  const int looked_at = int(threadIdx.x) % e.all_quads();
  const unsigned sender = unsigned(looked_at / quads);
  unsigned errors = 0;
  for (int i = 0; i < steps; ++i) {
    const int number = i & 1;
    if (threadIdx.x == 0) ptx::arrive_expecting(e.full + number, unsigned(16 * e.all_quads()));
    if constexpr (is_bulk) {
      send_bulk(e, number, payload(i, e.rank));
    } else {
      send_stores(e, number, payload(i, e.rank));
    }
    ptx::wait(e.full + number, unsigned(i >> 1 & 1));
    const uint4 got = e.buffer(number)[looked_at];
    const unsigned word = payload(i, sender).x;
    errors |= (got.x ^ word) | (got.y ^ word) | (got.z ^ word) | (got.w ^ word);
    __syncthreads();  // all threads have read: the next step may be sent
  }
  if (errors) atomicAdd(wrong, 1);
  ptx::cluster_sync();  // no block leaves while others may still send to it
}

// ---- times ----

// In one cluster, or in as many as the card holds at once.
template <class... P>
Shape cluster_shape(Line& line, void (*kernel)(P...), int cluster, bool is_alone) {
  Shape shape{cluster, kThreads, cluster, kWholeSm};
  const int most = most_clusters(kernel, shape);
  if (most < 1) throw std::runtime_error("no cluster of this size fits");
  const int clusters = is_alone ? 1 : most;
  shape.blocks = clusters * cluster;
  line.add("blocks", shape.blocks).add("clusters", clusters);
  return shape;
}

inline void time_cluster_barrier(Line& line, int cluster, bool is_alone) {
  line.add("cluster", cluster);
  const Config config(cluster_shape(line, cluster_barrier, cluster, is_alone));
  const double ms = median_ms([&](int) { launch(cluster_barrier, config, kClusterSteps); });
  line.value(ms * 1e6 / kClusterSteps, "ns");
}

template <bool is_bulk>
void time_cluster_exchange(Line& line, int cluster, bool is_alone, int bytes, int warps) {
  line.add("cluster", cluster).add("bytes_per_peer", bytes).add("sending_warps", warps);
  const Config config(cluster_shape(line, cluster_exchange<is_bulk>, cluster, is_alone));
  const Memory<unsigned> wrong(1);
  const double ms = median_ms([&](int) {
    launch(cluster_exchange<is_bulk>, config, bytes / 16, 32 * warps, kClusterSteps, wrong.get());
  });
  line.add("wrong_threads", wrong.read()[0]);
  line.value(ms * 1e6 / kClusterSteps, "ns");
}

template <bool is_bulk>
void add_exchanges(Suite& suite, int cluster, bool is_alone) {
  const std::string front = std::string(is_bulk ? "cluster_bulk/" : "cluster_stores/") +
                            std::to_string(cluster) + (is_alone ? "/one/" : "/all/");
  for (int bytes : {128, 1024, 4096}) {
    for (int warps : {1, 8}) {
      if (bytes == 128 && warps > 1) continue;  // eight lanes send all of it
      const std::string name =
          front + std::to_string(bytes) + "B/" + std::to_string(warps) + "_warps";
      suite.push_back({name, [=](Line& line) {
                         time_cluster_exchange<is_bulk>(line, cluster, is_alone, bytes, warps);
                       }});
    }
  }
}

inline void add_clusters(Suite& suite) {
  for (int cluster : {2, 4, 8, 16}) {
    for (bool is_alone : {true, false}) {
      suite.push_back({"cluster_barrier/" + std::to_string(cluster) + (is_alone ? "/one" : "/all"),
                       [=](Line& line) { time_cluster_barrier(line, cluster, is_alone); }});
      add_exchanges<false>(suite, cluster, is_alone);
      add_exchanges<true>(suite, cluster, is_alone);
    }
  }
}

}  // namespace fastcells::micro
