// Stand-in of CUDA's header under the emulator: the types that kernels and launchers name.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "simt/cuda.h"

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
