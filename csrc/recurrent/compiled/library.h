// What the library of a cell that was compiled by itself exports (fastcells/equations): the facts
// of the cell and its kernels of one storage, for the instruction set of this machine. Torch-free.
#pragma once
#include "recurrent/compiled/combined_sizes.h"
#include "recurrent/elementwise/cpu/kernels/args.h"
#include "recurrent/rowwise/cpu/kernels/args.h"

namespace fastcells::compiled {

struct CellLibrary {
  std::uint64_t layout;  // kLayout of the headers that it was compiled against
  const char* name;
  int gates, states, saved, unit_weights;
  bool additive, is_elementwise, whole_rows;
  Storage storage;
  // One of them, by the family of the cell; the others are nullptr, and all where only CUDA's
  // kernels were compiled (compiled/cuda).
  const cpu::CellKernels* dense;
  const rowwise::Kernels* rowwise;
  const elementwise::Kernels* elementwise;
};

// Of the structs that pass between the library and the module.
constexpr std::uint64_t kLayout =
    combined_sizes<CellLibrary, cpu::CellKernels, cpu::LayerArgs, cpu::ForwardArgs,
                   cpu::BackwardArgs, cpu::StepArgs, cpu::Place, cpu::RowGroup, cpu::Barrier,
                   elementwise::Kernels, elementwise::WalkArgs, elementwise::ForwardArgs,
                   elementwise::BackwardArgs, elementwise::Share, rowwise::Kernels,
                   rowwise::ForwardArgs, rowwise::BackwardArgs>();

// The name of the one function of a library: extern "C" const CellLibrary* ().
constexpr const char* kEntry = "fastcells_cell";

}  // namespace fastcells::compiled
