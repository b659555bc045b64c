// What the card says of itself, and the clock it really has under load.
#pragma once
#include "cuda/ptx.cuh"
#include "micro_harness.cuh"

namespace fastcells::micro {

__global__ void __launch_bounds__(kThreads) empty() {}

FC_DEVICE long long nanoseconds() {
  long long time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time)::"memory");
  return time;
}
// Keeps the card busy for so many nanoseconds: an idle one has a slow clock. `took` is of one
// thread: cycles, nanoseconds.
__global__ void __launch_bounds__(kThreads) spin(long long duration, long long* took, float* out) {
  const long long start = nanoseconds(), first = clock64();
  long long end = start;
  float x = float(threadIdx.x);
  do {
    FC_UNROLL
    for (int i = 0; i < 64; ++i) x = x * 0.999f + 0.5f;
    end = nanoseconds();
  } while (end - start < duration);
  if (blockIdx.x == 0 && threadIdx.x == 0) took[0] = clock64() - first, took[1] = end - start;
  out[blockIdx.x * kThreads + threadIdx.x] = x;
}

// The clock in MHz after so many milliseconds of load.
inline double spin_mhz(int ms) {
  const int blocks = card().multiprocessors;
  const Memory<long long> took(2);
  const Memory<float> out(std::size_t(blocks) * kThreads);
  launch(spin, Config({blocks}), ms * 1'000'000ll, took.get(), out.get());
  wait_for_card();
  const std::vector<long long> times = took.read();
  return 1e3 * double(times[0]) / double(times[1]);
}

inline int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "an attribute");
  return value;
}

inline void tell_device(Line& line) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "the properties");
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "the runtime's version");
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "the memory");
  line.add("device", properties.name).add("driver", driver).add("runtime", runtime);
  line.add("clock_mhz", attribute(cudaDevAttrClockRate) / 1e3);
  line.add("memory_clock_mhz", attribute(cudaDevAttrMemoryClockRate) / 1e3);
  line.add("l2_bytes", attribute(cudaDevAttrL2CacheSize));
  line.add("shared_optin_bytes", attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  line.add("shared_sm_bytes", attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  line.add("cooperative", attribute(cudaDevAttrCooperativeLaunch));
  line.add("free_bytes", double(free));
  line.value(card().multiprocessors, "multiprocessors");
}

inline void add_facts(Suite& suite) {
  suite.push_back({"device", tell_device});
  for (int cluster : {2, 4, 8, 16}) {
    for (int kib : {227, 100}) {
      const std::string name =
          "max_clusters/" + std::to_string(cluster) + "/" + std::to_string(kib) + "KiB";
      suite.push_back({name, [=](Line& line) {
                         line.add("cluster", cluster).add("threads", kThreads);
                         line.add("shared_bytes", kib * 1024);
                         const Shape shape{cluster, kThreads, cluster, kib * 1024};
                         line.value(most_clusters(empty, shape), "clusters");
                       }});
    }
  }
  suite.push_back({"clock", [](Line& line) { line.value(spin_mhz(5), "MHz"); }});
}

}  // namespace fastcells::micro
