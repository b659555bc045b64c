// The engine of CUDA: the sequence kernels where the plan has them for a layer, else the stepwise
// engine; elementwise cells, and layers that look at whole rows, have engines of their own.
#pragma once
#include "recurrent/engine.h"

namespace fastcells::cuda {

const Engine& engine();

// Which engine a call on the current device runs and with what plan, in words, and why not a faster
// one (or empty).
Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_projected,
               bool is_training, bool is_rowwise);

}  // namespace fastcells::cuda
