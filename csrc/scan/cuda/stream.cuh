// How a call runs the scan's kernels one by one: on a stream.
#pragma once
#include "scan/cuda/walk.cuh"

namespace fastcells::cuda {

struct ScanStream {
  void* stream;
  template <class Kernel, class... Args>
  cudaError_t operator()(std::int64_t blocks, Kernel kernel, const Args&... args) const {
    kernel<<<unsigned(blocks), kScanThreads, 0, static_cast<cudaStream_t>(stream)>>>(args...);
    return cudaGetLastError();
  }
};

}  // namespace fastcells::cuda
