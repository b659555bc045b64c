// The engine of layers that look at whole rows on CUDA: one product for all inputs, then a product
// and a kernel of a block a row for each step.
#pragma once
#include "recurrent/engine.h"

namespace fastcells::rowwise {

const Engine& cuda_engine();

}  // namespace fastcells::rowwise
