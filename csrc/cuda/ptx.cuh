// The instructions that CUDA C++ has no word for, each as one function. Under the emulator of
// tests/simt the same names are its host twins.
//
// Source: PTX ISA 9.0. Clusters, mbarrier transactions and st.async are sm_90's; the others
// sm_80's.
#pragma once
#ifdef FASTCELLS_EMULATED
#include "simt/ptx.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#endif

#define FC_DEVICE __device__ __forceinline__

#ifndef FASTCELLS_EMULATED
namespace fastcells::ptx {

// Shared memory. The emulator looks at every access through it.
template <class T>
using Shared = T*;

// `count` elements at a byte of the dynamic shared memory.
template <class T>
FC_DEVICE Shared<T> shared_array(std::ptrdiff_t byte, std::ptrdiff_t /* count */) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  return reinterpret_cast<T*>(dynamic_shared + byte);
}
template <class U, class T>
FC_DEVICE Shared<U> shared_cast(Shared<T> pointer) {
  return reinterpret_cast<U*>(pointer);
}
FC_DEVICE unsigned address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// ---- clusters ----

// Whether the target has clusters, and what is counted by mbarriers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kHasClusters = false;
#else
constexpr bool kHasClusters = true;
#endif

FC_DEVICE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
FC_DEVICE unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
FC_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
FC_DEVICE unsigned peer_address(unsigned mine, unsigned rank) {
  unsigned theirs;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(mine), "r"(rank));
  return theirs;
}

// ---- mbarriers that count arrivals and bytes ----

using Transactions = std::uint64_t;

FC_DEVICE void transactions_init(Shared<Transactions> barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(arrivals)
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One arrival, and `bytes` more to wait for in this phase.
FC_DEVICE void arrive_expecting(Shared<Transactions> barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)),
               "r"(bytes)
               : "memory");
}
FC_DEVICE void wait(Shared<Transactions> barrier, unsigned parity) {
  unsigned is_over;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(is_over)
        : "r"(address(barrier)), "r"(parity)
        : "memory");
  } while (!is_over);
}

// 16 bytes to `where` in block `rank`, whose `barrier` then has so many less to wait for. They
// arrive at any time, and are seen by whoever waited for the barrier.
FC_DEVICE void store_async(Shared<uint4> where, uint4 value, Shared<Transactions> barrier,
                           unsigned rank) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(peer_address(address(where), rank)),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w),
      "r"(peer_address(address(barrier), rank))
      : "memory");
}

// ---- copies from global to shared memory ----

// 16 bytes, past the L1; they are there after a wait for their group.
template <class T>
FC_DEVICE void copy_async(Shared<T> to, const T* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to)), "l"(from)
               : "memory");
}
FC_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of the committed groups are under way.
template <int pending>
FC_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- global memory that blocks of a running grid share ----

// At the L2, where all multiprocessors see the same.
FC_DEVICE uint4 load_global(const uint4* from) {
  uint4 value;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from)
               : "memory");
  return value;
}
FC_DEVICE void store_global(uint4* to, uint4 value) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}
// Whoever sees the counter's new value, or a later one, sees what was ordered before this.
FC_DEVICE void add_release(unsigned* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
// Until the counter, which may wrap around, is `least` or more. By one thread of a block: more of
// them, or a flag for each writer, take twice as long (measured: benchmarks/gpu/micro_grid.cuh).
FC_DEVICE void wait_for_count(const unsigned* counter, unsigned least) {
  unsigned value;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  } while (static_cast<int>(value - least) < 0);
}

// Of both no more than a word is sure to be stored and loaded as a whole.
FC_DEVICE void store_packet(uint4* to, uint4 value) { store_global(to, value); }

// 16 bytes, and 8 from somewhere else that belong to them.
struct Packet {
  uint4 quad;
  uint2 rest;
};
struct PacketPlace {
  const uint4* quad;  // nullptr: there is none, and it is zero
  const uint2* rest;
};
FC_DEVICE Packet load_packet(const PacketPlace& from) {
  Packet p;
  p.quad = load_global(from.quad);
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
               : "=r"(p.rest.x), "=r"(p.rest.y)
               : "l"(from.rest)
               : "memory");
  return p;
}
// Those at place(0), place(1), ..., asked for at once; each looked at until is_new(packet). By all
// lanes of a warp.
template <int n, class Place, class IsNew>
FC_DEVICE void load_packets(Packet (&packets)[n], const Place& place, const IsNew& is_new) {
#pragma unroll
  for (int k = 0; k < n; ++k) {
    const PacketPlace from = place(k);
    packets[k] = from.quad ? load_packet(from) : Packet{};
  }
  bool is_late;
  do {
    is_late = false;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const PacketPlace from = place(k);
      if (!from.quad || is_new(packets[k])) continue;
      packets[k] = load_packet(from);
      is_late = true;
    }
  } while (is_late);
  __syncwarp();
}

// ---- special functions ----

// 1 / x to 1 ulp; 0 for |x| > 2^126, infinite for a subnormal.
FC_DEVICE float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
// 2^x to 2^-22; 0 below the normal numbers.
FC_DEVICE float exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// ---- products of a warp ----

// d += a b: a [16, 16], b [16, 8], pairs of T; d [16, 8].
template <class T>
FC_DEVICE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// A float32 to the nearest of TF32, which has 11 bits. Volatile: done again at each use, rather
// than kept in a register of its own.
FC_DEVICE unsigned round_to_tf32(unsigned word) {
  unsigned rounded;
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "r"(word));
  return rounded;
}
// d += a b: a [16, 8], b [8, 8], words of float32 of which the upper 19 bits count (TF32).
FC_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and
// gets of each matrix the elements 2*(l % 4), 2*(l % 4) + 1 of row l / 4.
FC_DEVICE void load_matrices(unsigned (&out)[4], Shared<std::uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address(row)));
}
// The same matrices transposed: a lane gets of each the elements l / 4 of rows 2*(l % 4) and
// 2*(l % 4) + 1.
FC_DEVICE void load_transposed(unsigned (&out)[4], Shared<std::uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address(row)));
}

// ---- arithmetic ----

// Two numbers of 16 bits, to the nearest; `low` in the lower half.
template <class T>
FC_DEVICE unsigned pack(float low, float high) {
  unsigned word;
  if constexpr (std::is_same_v<T, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
}
// 2^x to 2 ulp; what is below the normal numbers is 0.
FC_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fastcells::ptx
#endif
