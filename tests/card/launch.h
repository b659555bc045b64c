// A kernel on a card, called as simt::launch calls it under the emulator (tests/simt/machine.h):
// the same test, compiled by nvcc, runs there.
//
// Host buffers travel and come back (card/memory.h). A kernel that does not end in time is named
// and ends the program, and so is one whose fault the context does not survive; the caller of the
// program goes on behind the case (tests/cpp/cases.h).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cxxabi.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>
#include <tuple>

#include "card/json.h"
#include "card/memory.h"

namespace simt {

struct Counters;  // the emulator's: a card counts nothing

struct Options {
  unsigned seed = 0;  // the card has its own order
  unsigned cluster_size = 1;
  bool is_cooperative = false;
  Counters* counters = nullptr;
};

}  // namespace simt

namespace card {

constexpr int kHung = 3, kLost = 4;  // exit codes
constexpr int kPortableCluster = 8;

inline double seconds_a_kernel() {
  const char* const given = std::getenv("FASTCELLS_KERNEL_SECONDS");
  return given ? std::atof(given) : 10.0;
}

template <class Kernel>
std::string kernel_name(Kernel kernel) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, reinterpret_cast<const void*>(kernel)) != cudaSuccess) return "?";
  int status = 0;
  char* const plain = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  const std::string name = status == 0 ? plain : mangled;
  std::free(plain);
  return name;
}

// The program's end, where nothing more can run in this process.
[[noreturn]] inline void give_up(int code, const std::string& kernel, const std::string& why) {
  std::printf("{\"kernel\": %s, \"error\": %s}\n", quoted(kernel).c_str(), quoted(why).c_str());
  std::fflush(stdout);
  _exit(code);
}

// Kernels that have run, each said once.
template <class Kernel>
void note_kernel(Kernel kernel, const std::string& name) {
  static std::map<const void*, bool> noted;
  if (!noted.try_emplace(reinterpret_cast<const void*>(kernel), true).second) return;
  cudaFuncAttributes facts{};
  check(cudaFuncGetAttributes(&facts, reinterpret_cast<const void*>(kernel)), "the attributes");
  std::printf("{\"kernel\": %s, \"registers\": %d, \"local_bytes\": %zu, \"binary\": %d}\n",
              quoted(name).c_str(), facts.numRegs, facts.localSizeBytes, facts.binaryVersion);
}

inline void wait_for_kernel(const std::string& name, cudaStream_t stream = nullptr) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds_a_kernel());
  cudaError_t error;
  while ((error = cudaStreamQuery(stream)) == cudaErrorNotReady) {
    if (Clock::now() > end) give_up(kHung, name, "did not end in time");
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  if (error != cudaSuccess) give_up(kLost, name, cudaGetErrorString(error));
}

}  // namespace card

namespace simt {

template <class Kernel, class... Args>
void launch(dim3 grid, dim3 threads, std::size_t shared_bytes, const Options& options,
            Kernel kernel, Args... args) {
  const std::string name = card::kernel_name(kernel);
  card::Copies copies;
  auto on_card = std::make_tuple(copies.translate(args)...);
  cudaLaunchAttribute attribute{};
  if (options.is_cooperative) {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  } else {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {options.cluster_size, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = options.is_cooperative || options.cluster_size > 1;
  card::check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
      "shared memory");
  if (options.cluster_size > card::kPortableCluster) {
    card::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                "a cluster of more than eight");
  }
  std::apply(
      [&](auto... arg) { card::check(cudaLaunchKernelEx(&config, kernel, arg...), "a launch"); },
      on_card);
  card::wait_for_kernel(name);
  card::note_kernel(kernel, name);
  copies.fetch();
}

}  // namespace simt
