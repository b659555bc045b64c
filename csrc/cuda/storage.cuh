// The 16-bit types of storage on CUDA, for storage.h.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fastcells {

struct Cuda {
  using Half = __half;
  using BFloat16 = __nv_bfloat16;
  template <class T>
  using Operand = T;
};

}  // namespace fastcells
