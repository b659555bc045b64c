// The functions of every cell and storage type at one instruction set, as a table.
#pragma once
#include <new>

#include "recurrent/cpu/kernels/backward.h"
#include "recurrent/cpu/kernels/forward.h"
#include "recurrent/cpu/kernels/hash.h"
#include "recurrent/cpu/kernels/single_step.h"

namespace fastcells {
namespace {

template <class Cell, class T, class S>
std::size_t forward_scratch(const cpu::LayerArgs& a, int64_t own_panels, int64_t rows) {
  return Forward<Cell, T, S>::scratch_bytes(a, own_panels, rows);
}
template <class Cell, class T, class S>
void forward(const cpu::ForwardArgs& a, const cpu::Place& place) {
  Forward<Cell, T, S>(a, place).run();
}
// All threads' shares of a group by one thread, step by step: the same bits.
template <class Cell, class T, class S>
void forward_alone(const cpu::ForwardArgs& a, const cpu::Place* places, int count) {
  using Pass = Forward<Cell, T, S>;
  alignas(Pass) char memory[cpu::kMostAlone * sizeof(Pass)];
  Pass* const passes = reinterpret_cast<Pass*>(memory);
  for (int p = 0; p < count; ++p) new (passes + p) Pass(a, places[p]);
  for (int p = 0; p < count; ++p) passes[p].start();
  for (int64_t i = 0; i < a.T; ++i) {
    for (int p = 0; p < count; ++p) passes[p].advance();
  }
}
template <class Cell, class T, class S>
std::size_t backward_scratch(const cpu::BackwardArgs& a) {
  return Backward<Cell, T, S>::scratch_bytes(a);
}
template <class Cell, class T, class S>
void backward(const cpu::BackwardArgs& a, const cpu::Place& place) {
  Backward<Cell, T, S>(a, place).run();
}
template <class Cell, class T, class S>
void step(const cpu::StepArgs& a, int64_t first, int64_t last) {
  for (int64_t b = 0; b < a.B; ++b) Step<Cell, T, S>(a).run(b, {first, last});
}

template <class Cell, class T, class S>
constexpr cpu::CellKernels kKernels = {
    Shape<Cell, T, S>::L,        Shape<Cell, T, S>::kUnits,    Shape<Cell, T, S>::R,
    Shape<Cell, T, S>::kColumns, forward_scratch<Cell, T, S>,  forward<Cell, T, S>,
    forward_alone<Cell, T, S>,   backward_scratch<Cell, T, S>, backward<Cell, T, S>,
    pack_gates<Cell, T, S>,      pack_plain<Cell, T, S>,       step<Cell, T, S>,
};

template <class Cell>
const cpu::CellKernels* kernels_of(Storage storage) {
  if constexpr (Cell::kTwoProducts)
    return nullptr;  // left to the stepwise engine
  else
    switch (storage) {
      case Storage::kFloat32: return &kKernels<Cell, float, float>;
      case Storage::kFloat64: return &kKernels<Cell, double, double>;
      case Storage::kBFloat16: return &kKernels<Cell, BFloat16Bits, float>;
      case Storage::kFloat16: return nullptr;
    }
  return nullptr;
}

template <class... Cell>
const cpu::CellKernels* find_in(CellList<Cell...>, int cell, Storage storage) {
  const cpu::CellKernels* found = nullptr;
  int index = 0;
  ((index++ == cell ? void(found = kernels_of<Cell>(storage)) : void()), ...);
  return found;
}

const cpu::CellKernels* find_kernels(int cell, Storage storage) {
  return find_in(Cells{}, cell, storage);
}

}  // namespace
}  // namespace fastcells
