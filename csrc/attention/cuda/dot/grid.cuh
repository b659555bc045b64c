// How the attention kernels are launched: a width becomes a template argument, tiles a grid.
#pragma once
#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <type_traits>

#include "attention/cuda/dot/typed.h"

namespace fastcells {

// f(width), an integral constant, of the smallest step that holds E and Ev.
template <class F>
cudaError_t dispatch_width(const AttentionArgs& args, const F& f) {
  const std::int64_t width = args.E > args.Ev ? args.E : args.Ev;
  if (width <= 64) return f(std::integral_constant<int, 64>{});
  if (width <= 128) return f(std::integral_constant<int, 128>{});
  static_assert(kMostHeadWidthCuda == 256, "the last step");
  if (width <= 256) return f(std::integral_constant<int, 256>{});
  return cudaErrorInvalidValue;
}

template <class Args>
cudaError_t launch_blocks(void (*kernel)(Args), std::int64_t blocks, int threads,
                          std::size_t shared_bytes, const Args& args, void* stream) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const auto bytes = static_cast<int>(shared_bytes);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

// How a call runs its kernels one by one: on a stream.
struct StreamBlocks {
  void* stream;

  template <class Args>
  cudaError_t operator()(std::int64_t blocks, int threads, std::size_t shared_bytes,
                         void (*kernel)(Args), const Args& args) const {
    return launch_blocks(kernel, blocks, threads, shared_bytes, args, stream);
  }
};

}  // namespace fastcells
