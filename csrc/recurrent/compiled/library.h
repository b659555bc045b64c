// What the library of a cell that was compiled by itself exports (fastcells/equations): the facts
// of the cell and its kernels of one storage, for the instruction set of this machine. Torch-free.
#pragma once
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

// Of the structs that pass between the library and the module: differs where one of them does.
constexpr std::uint64_t combined_sizes(std::initializer_list<std::size_t> sizes) {
  std::uint64_t all = 0xcbf29ce484222325;  // FNV-1a
  for (const std::size_t size : sizes) all = (all ^ size) * 0x100000001b3;
  return all;
}
constexpr std::uint64_t kLayout = combined_sizes(
    {sizeof(CellLibrary), sizeof(cpu::CellKernels), sizeof(cpu::LayerArgs),
     sizeof(cpu::ForwardArgs), sizeof(cpu::BackwardArgs), sizeof(cpu::StepArgs), sizeof(cpu::Place),
     sizeof(cpu::RowGroup), sizeof(cpu::Barrier), sizeof(elementwise::Kernels),
     sizeof(elementwise::WalkArgs), sizeof(elementwise::ForwardArgs),
     sizeof(elementwise::BackwardArgs), sizeof(elementwise::Share), sizeof(rowwise::Kernels),
     sizeof(rowwise::ForwardArgs), sizeof(rowwise::BackwardArgs)});

// The name of the one function of a library: extern "C" const CellLibrary* ().
constexpr const char* kEntry = "fastcells_cell";

}  // namespace fastcells::compiled
