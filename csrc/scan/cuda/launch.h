// Launchers of the scan's kernels: the bridge from the engine (.cpp) to the .cu files. Torch-free,
// plain data; `stream` is a cudaStream_t. Each returns the first cudaError_t as int. Every buffer
// is the caller's; what is `out` is written whole.
#pragma once
#include "scan/args.h"
#include "scan/cuda/plan.h"

namespace fastcells::cuda {

// Chunks of time that are walked at the same time, where lanes (a batch row and unit each) are few:
// all but the last are first summed up, then the states between them follow one from the other.
// Where a product of factors is not finite, a state that is may still be right behind it: one
// thread then walks the whole lane.
struct ScanChunks {
  ScanPlan plan;
  void* states;    // A [chunks - 1, lanes] scratch; no buffers without chunks
  void* products;  // A [chunks - 1, lanes] scratch
  bool* reaches;   // [chunks - 1, lanes] scratch: whether what comes in reaches the end
  bool* is_whole;  // [lanes] scratch: lanes that are walked from end to end
};

// A is float, double for float64, and pairs of them for complex. d_a_sums are A [chunks, B, H], the
// sums of each chunk.
int launch_scan_forward(ScanStorage storage, const ScanForwardArgs& args, const ScanChunks& chunks,
                        void* stream);
int launch_scan_backward(ScanStorage storage, const ScanBackwardArgs& args,
                         const ScanChunks& chunks, void* stream);

}  // namespace fastcells::cuda
