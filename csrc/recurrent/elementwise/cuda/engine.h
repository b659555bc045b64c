// The engine of elementwise cells on CUDA: one product for all inputs, then a kernel of lanes.
#pragma once
#include "recurrent/engine.h"

namespace fastcells::elementwise {

const Engine& cuda_engine();

}  // namespace fastcells::elementwise
