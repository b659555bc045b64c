// What the programs that time kernels without torch have in common: memory of the card with numbers
// in it, names of types, times by CUDA events, and a clock that says when to stop.
//
// A kernel that hangs is named and ends the program (tests/card/launch.h).
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "cases.h"
#include "cuda/storage.cuh"
#include "storage.h"

namespace fastcells {

constexpr int kRounds = 7;  // timed runs, of which the median counts

// Numbers between -size and size; of bool: true in (1 + size) / 2 of the places.
template <class T>
__global__ void fill(T* to, std::int64_t count, float size, unsigned seed) {
  const std::int64_t stride = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    unsigned x = unsigned(i) * 2654435761u + seed;
    x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
    const float number = float(x >> 8) * 0x1p-23f - 1;
    if constexpr (std::is_same_v<T, bool>) {
      to[i] = number < size;
    } else {
      to[i] = T(size * number);
    }
  }
}

// Memory of the card, of T numbers at random.
template <class T>
class Memory {
 public:
  explicit Memory(std::int64_t count, float size = 1) {
    card::check(cudaMalloc(&data_, std::size_t(count) * sizeof(T)), "cudaMalloc");
    fill<<<512, 256>>>(data_, count, size, unsigned(count));
    card::check(cudaGetLastError(), "fill");
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

template <class T>
constexpr Storage kStorage = sizeof(T) == 4              ? Storage::kFloat32
                             : std::is_same_v<T, __half> ? Storage::kFloat16
                                                         : Storage::kBFloat16;
template <class T>
const char* dtype_name() {
  return sizeof(T) == 4 ? "float32" : std::is_same_v<T, __half> ? "float16" : "bfloat16";
}

// Two events of a stream, and the time between them.
class Events {
 public:
  explicit Events(cudaStream_t stream = nullptr) : stream_(stream) {
    for (cudaEvent_t* event : {&start_, &end_}) card::check(cudaEventCreate(event), "an event");
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
  ~Events() { cudaEventDestroy(start_), cudaEventDestroy(end_); }

  void start() const { card::check(cudaEventRecord(start_, stream_), "an event"); }
  // Microseconds since then, when all is over. `name` is said of a kernel that is not.
  double stop(const std::string& name) const {
    card::check(cudaEventRecord(end_, stream_), "an event");
    card::wait_for_kernel(name, stream_);
    float ms = 0;
    card::check(cudaEventElapsedTime(&ms, start_, end_), "an event");
    return 1e3 * ms;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

// The median of run()'s microseconds; the first run does not count.
template <class Run>
double median_us(const Run& run) {
  std::vector<double> times;
  run();
  for (int round = 0; round < kRounds; ++round) times.push_back(run());
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

// Whether there is time left.
class Clock {
 public:
  explicit Clock(double seconds) : end_(Now::now() + std::chrono::duration<double>(seconds)) {}
  bool is_over() const { return Now::now() > end_; }

 private:
  using Now = std::chrono::steady_clock;
  std::chrono::time_point<Now, std::chrono::duration<double>> end_;
};

// Keeps the card busy for a while: an idle one has a slow clock.
inline void warm_up() {
  constexpr std::int64_t kCount = std::int64_t(1) << 28;
  constexpr double kSeconds = 0.15;
  const Memory<float> memory(kCount);
  for (const Clock clock(kSeconds); !clock.is_over();) {
    fill<<<512, 256>>>(memory.get(), kCount, 1.0f, 1u);
    card::check(cudaGetLastError(), "fill");
    card::wait_for_kernel("fill");
  }
}

}  // namespace fastcells
