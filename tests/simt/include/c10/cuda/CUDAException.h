// Stand-in of torch's header under the emulator, where nothing of a launch fails.
#pragma once
#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#define C10_CUDA_CHECK(error) TORCH_CHECK(int(error) == int(cudaSuccess), "a launch failed")
