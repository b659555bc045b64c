// The engine of the CPU: the sequence engine (recurrent/cpu/sequence.h) where it applies, else the
// stepwise one; for a single step of a row or two, the step kernels that read the weights as they
// lie. Elementwise cells, and layers that look at whole rows, have engines of their own.
#pragma once
#include "recurrent/cpu/kernels/args.h"
#include "recurrent/engine.h"

namespace fastcells::cpu {

const Engine& engine();

// Which engine a call runs and with what plan, in words, and why not a faster one (or empty).
Choice explain(const CellFacts& cell, Storage storage, WeightStorage weights,
               const LayerSizes& sizes, bool is_projected, bool is_training, bool has_rows,
               bool is_rowwise);
// Of weights of this dtype beside an input of that one.
WeightStorage weight_storage(at::ScalarType weights, at::ScalarType input);

}  // namespace fastcells::cpu
