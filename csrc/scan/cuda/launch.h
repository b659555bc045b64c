// Launchers of the scan's kernels: the bridge from the engine (.cpp) to the .cu files. Torch-free,
// plain data; `stream` is a cudaStream_t. Each returns the first cudaError_t as int. Every buffer
// is the caller's; what is `out` is written whole.
#pragma once
#include "scan/args.h"

namespace fastcells::cuda {

// Chunks of time that are walked at the same time, where lanes (a batch row and unit each) are few:
// all but the last are first summed up, then the states between them follow one from the other.
struct ScanChunks {
  std::int64_t count;  // 1: no chunks, and no buffers
  std::int64_t steps;  // of a chunk; the last has what is left
  void* states;        // A [count - 1, lanes] scratch
  void* products;      // A [count - 1, lanes] scratch
  bool* reaches;       // [count - 1, lanes] scratch
};

// Without chunks alone: d_a_sums. A is float, double for float64, and pairs of them for complex.
int launch_scan_forward(ScanStorage storage, const ScanForwardArgs& args, const ScanChunks& chunks,
                        void* stream);
int launch_scan_backward(ScanStorage storage, const ScanBackwardArgs& args,
                         const ScanChunks& chunks, void* stream);

}  // namespace fastcells::cuda
