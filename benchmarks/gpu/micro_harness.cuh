// What the measurements of micro.cu have in common: a line of JSON each, memory, launches with
// clusters or of cooperative grids, and times by CUDA events of which each is waited for no longer
// than kTimeout.
//
// All work is in one stream. What fails throws, and becomes the "error" of the line; a kernel that
// hangs ends the process.
#pragma once
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastcells::micro {

constexpr int kRounds = 7;  // timed launches, of which the median counts
constexpr int kThreads = 256;
constexpr int kWholeSm = 200 * 1024;  // bytes of shared memory of a block that is alone on its SM
constexpr double kTimeout = 5;        // seconds of one launch
constexpr int kHung = 3, kLost = 4;   // exit codes, as tests/card/launch.h has them

inline double now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // where it can be forgotten, the next call shall not see it
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error));
}

// ---- results ----

// The line of one measurement: its parameters are there before it runs, and so in an error's line.
class Line {
 public:
  Line(const std::string& name, int number) { add("name", name).add("number", number); }
  Line& add(const std::string& key, double number) {
    char text[32] = "null";
    if (std::isfinite(number)) std::snprintf(text, sizeof text, "%.10g", number);
    return append(key, text);
  }
  Line& add(const std::string& key, const std::string& text) {
    return append(key, "\"" + text + "\"");
  }
  void value(double number, const char* unit) {
    has_value_ = true;
    add("value", std::abs(number) < 1e6 ? std::round(number * 1e4) / 1e4 : number);
    add("unit", unit);
  }
  void error(const std::string& what) {
    if (!has_value_) append("value", "null").add("unit", "");
    add("error", what);
  }
  // At once: what comes next may end the process.
  void print() const {
    std::printf("{%s}\n", text_.c_str());
    std::fflush(stdout);
  }

 private:
  Line& append(const std::string& key, const std::string& json) {
    text_ += (text_.empty() ? "\"" : ", \"") + key + "\": " + json;
    return *this;
  }
  std::string text_;
  bool has_value_ = false;
};

inline Line* current_line = nullptr;  // of the measurement under way

struct Measurement {
  std::string name;
  std::function<void(Line&)> run;
};
using Suite = std::vector<Measurement>;

// ---- the card ----

struct Card {
  cudaStream_t stream;
  cudaEvent_t start, end;
  int multiprocessors;
};
inline const Card& card() {
  static const Card opened = [] {
    Card c{};
    check(cudaSetDevice(0), "a card");
    check(cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking), "a stream");
    for (cudaEvent_t* event : {&c.start, &c.end}) check(cudaEventCreate(event), "an event");
    check(cudaDeviceGetAttribute(&c.multiprocessors, cudaDevAttrMultiProcessorCount, 0),
          "multiprocessors");
    return c;
  }();
  return opened;
}

// Until all work so far is over.
inline void wait_for_card() {
  check(cudaEventRecord(card().end, card().stream), "the end");
  const double last = now() + kTimeout;
  cudaError_t error;
  while ((error = cudaEventQuery(card().end)) == cudaErrorNotReady) {
    if (now() < last) continue;
    if (current_line) {
      current_line->error("timeout");
      current_line->print();
    }
    _exit(kHung);
  }
  cudaGetLastError();  // "not ready" was one
  check(error, "the kernel");
}

// Memory of the card, all bytes 0.
template <class T>
class Memory {
 public:
  explicit Memory(std::size_t count) : count_(count) {
    check(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc");
    const cudaError_t error = cudaMemsetAsync(data_, 0, count * sizeof(T), card().stream);
    if (error != cudaSuccess) cudaFree(data_);
    check(error, "cudaMemsetAsync");
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }

  T* get() const { return data_; }
  void set(const std::vector<T>& values) {
    copy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    copy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  static void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, bytes, kind, card().stream), "cudaMemcpyAsync");
    wait_for_card();
  }
  T* data_ = nullptr;
  std::size_t count_;
};

// ---- launches ----

struct Shape {
  int blocks, threads = kThreads;
  int cluster = 1;
  int shared = 0;  // bytes, dynamic
  bool is_cooperative = false;
};

// A shape as the runtime wants it.
class Config {
 public:
  explicit Config(const Shape& shape) {
    config_.gridDim = dim3(unsigned(shape.blocks));
    config_.blockDim = dim3(unsigned(shape.threads));
    config_.dynamicSmemBytes = std::size_t(shape.shared);
    config_.stream = card().stream;
    config_.attrs = attributes_;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {unsigned(shape.cluster), 1, 1};
    }
    if (shape.is_cooperative) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
  }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;
  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchAttribute attributes_[2] = {};
  cudaLaunchConfig_t config_ = {};
};

// Once, before a kernel is launched in a shape.
template <class... P>
void allow(void (*kernel)(P...), const Shape& shape) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared),
        "shared memory");
  if (shape.cluster > 8) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "a cluster of more than eight");
  }
}
template <class... P, class... A>
void launch(void (*kernel)(P...), const Config& config, const A&... arguments) {
  check(cudaLaunchKernelEx(config.get(), kernel, static_cast<P>(arguments)...), "the launch");
}
// How many clusters of this shape the card holds at once.
template <class... P>
int most_clusters(void (*kernel)(P...), Shape shape) {
  shape.blocks = 64 * shape.cluster;
  allow(kernel, shape);
  const Config config(shape);
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, config.get()), "the occupancy");
  return clusters;
}

// Milliseconds of work(round), the median of kRounds; round 0 warms up and does not count.
template <class Work>
double median_ms(const Work& work) {
  std::vector<float> times;
  for (int round = 0; round <= kRounds; ++round) {
    check(cudaEventRecord(card().start, card().stream), "the start");
    work(round);
    wait_for_card();
    float ms = 0;
    check(cudaEventElapsedTime(&ms, card().start, card().end), "the time");
    if (round > 0) times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

}  // namespace fastcells::micro
