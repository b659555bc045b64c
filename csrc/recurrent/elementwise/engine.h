// The engine of cells whose units see themselves alone (cells/cells.h, ElementwiseCells), on a CPU.
//
// Each lane, a unit of a row, walks through time with its state in registers
// (elementwise/cpu/kernels). States are carried in the arithmetic type, h too; what is stored of
// them is rounded.
#pragma once
#include "recurrent/engine.h"

namespace fastcells::elementwise {

const Engine& engine();
// What `explain` tells of a call.
Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes);
// Packs W_ih [G*H, I] and its bias for later calls: of a frozen weight.
void pack(const CellFacts& cell, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace fastcells::elementwise
