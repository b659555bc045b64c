// Where a test's kernels run: under the emulator (tests/simt), or, compiled by nvcc, on a card
// (tests/card). The first thing that a test of a kernel includes.
#pragma once
#ifdef __CUDACC__
#include "card/launch.h"
#else
#define FASTCELLS_EMULATED
#include <cuda_runtime.h>
#endif
