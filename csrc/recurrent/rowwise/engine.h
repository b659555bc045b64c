// The CPU's engine of layers whose cells look at whole rows: layer normalisation, zoneout, dropout
// of the h that enters the product; and of those with a second product a step. Any dense cell; the
// kernels: cpu/kernels/. That of CUDA: cuda/engine.h.
#pragma once
#include "recurrent/engine.h"

namespace fastcells::rowwise {

const Engine& engine();

// For `explain`.
Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_training);

}  // namespace fastcells::rowwise
