// The scan engine of CUDA: results and scratch from torch's allocator around the launchers of
// scan/cuda/launch.h, on torch's current stream.
#pragma once
#include "scan/engine.h"

namespace fastcells::cuda {

const ScanEngine& scan_engine();

}  // namespace fastcells::cuda
