// Rates and latencies of what a warp computes with: products of mma.sync, and the special functions
// of a sigmoid.
#pragma once
#include "cuda/ptx.cuh"
#include "host_device.h"
#include "micro_harness.cuh"

namespace fastcells::micro {

// Factors of a quarter and a little more, different in every lane.
struct Fp16Product {  // m16n8k16
  static constexpr double kFlop = 2.0 * 16 * 8 * 16;
  FC_DEVICE static unsigned word(unsigned lane) { return 0x34003400u + lane * 0x00010001u; }
  FC_DEVICE static void add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    ptx::mma_m16n8k16<__half>(d, a, b);
  }
};
struct Tf32Product {  // m16n8k8
  static constexpr double kFlop = 2.0 * 16 * 8 * 8;
  FC_DEVICE static unsigned word(unsigned lane) { return 0x3e800000u + (lane << 13); }
  FC_DEVICE static void add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    ptx::mma_m16n8k8_tf32(d, a, b);
  }
};

constexpr int kUnrolled = 16;  // products of a warp in one turn

// So many chains of products a warp, in turn: those of a chain wait for each other.
template <class Product, int kChains>
__global__ void __launch_bounds__(kThreads, 1) multiply(int turns, float* out) {
  unsigned a[4], b[2];
  FC_UNROLL
  for (unsigned i = 0; i < 4; ++i) a[i] = Product::word(threadIdx.x % 32 + i);
  FC_UNROLL
  for (unsigned i = 0; i < 2; ++i) b[i] = Product::word(threadIdx.x % 32 + 4 + i);
  float d[kChains][4] = {};
  FC_ROLLED
  for (int turn = 0; turn < turns; ++turn) {
    FC_UNROLL
    for (int k = 0; k < kUnrolled; ++k) Product::add(d[k % kChains], a, b);
  }
  float sum = 0;
  FC_UNROLL
  for (int c = 0; c < kChains; ++c) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

template <class Product, int kChains>
double multiply_ms(int blocks, int threads, int turns) {
  const Memory<float> out(std::size_t(blocks) * threads);
  const Config config({blocks, threads});
  return median_ms([&](int) { launch(multiply<Product, kChains>, config, turns, out.get()); });
}
template <class Product>
void time_rate(Line& line, bool is_alone) {
  constexpr int kTurns = 4096;
  const int blocks = is_alone ? 1 : card().multiprocessors, warps = kThreads / 32;
  line.add("blocks", blocks).add("warps", warps).add("chains", 8);
  const double ms = multiply_ms<Product, 8>(blocks, kThreads, kTurns);
  line.value(Product::kFlop * kUnrolled * kTurns * warps / ms / 1e6, "GFLOP/s per SM");
}
template <class Product>
void time_latency(Line& line) {
  constexpr int kTurns = 4096;
  line.add("blocks", 1).add("warps", 1).add("chains", 1);
  line.value(multiply_ms<Product, 1>(1, 32, kTurns) * 1e6 / (kTurns * kUnrolled), "ns");
}

// 1 / 2^x, and again of what comes out.
__global__ void __launch_bounds__(32) powers(int turns, float* out) {
  float x = float(threadIdx.x) / 32;
  FC_ROLLED
  for (int turn = 0; turn < turns; ++turn) {
    FC_UNROLL
    for (int k = 0; k < kUnrolled; ++k) x = ptx::reciprocal(ptx::power_of_two(x));
  }
  out[threadIdx.x] = x;
}
inline void time_powers(Line& line) {
  constexpr int kTurns = 4096;
  const Memory<float> out(32);
  const Config config({1, 32});
  const double ms = median_ms([&](int) { launch(powers, config, kTurns, out.get()); });
  line.value(ms * 1e6 / (kTurns * kUnrolled), "ns");
}

template <class Product>
void add_product(Suite& suite, const std::string& kind) {
  suite.push_back(
      {"mma_rate/" + kind + "/all", [](Line& line) { time_rate<Product>(line, false); }});
  suite.push_back(
      {"mma_rate/" + kind + "/one", [](Line& line) { time_rate<Product>(line, true); }});
  suite.push_back({"mma_latency/" + kind, time_latency<Product>});
}
inline void add_units(Suite& suite) {
  add_product<Fp16Product>(suite, "fp16");
  add_product<Tf32Product>(suite, "tf32");
  suite.push_back({"ex2_rcp_latency", time_powers});
}

}  // namespace fastcells::micro
