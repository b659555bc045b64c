// From a cell that is known at run time to its type. No other file switches on a cell. Torch-free.
#pragma once
#include "recurrent/cells/cells.h"
#include "storage.h"

namespace fastcells {

// Position in the lists of cells/cells.h: the dense cells first, then the elementwise, then the row
// cells.
enum class CellKind : int {};

// Calls f(TypeTag<Cell>, kind) for every cell, in the order of the list.
template <class F, class... Cell>
void for_each_cell_in(CellList<Cell...>, int first, F&& f) {
  int index = first;
  (f(TypeTag<Cell>{}, CellKind(index++)), ...);
}
template <class F>
void for_each_cell(F&& f) {
  for_each_cell_in(Cells{}, 0, f);
}
template <class F>
void for_each_elementwise_cell(F&& f) {
  for_each_cell_in(ElementwiseCells{}, Cells::kCount, f);
}
template <class F>
void for_each_row_cell(F&& f) {
  for_each_cell_in(RowCells{}, Cells::kCount + ElementwiseCells::kCount, f);
}

// Vectors of a row cell, 0 of a dense one.
template <class Cell>
constexpr int vectors_of() {
  if constexpr (requires { Cell::kUnitWeights; }) return Cell::kUnitWeights;
  return 0;
}

// Elements of the array of a cell's unit weights.
template <class Cell>
constexpr int kUnitSlots = Cell::kUnitWeights > 0 ? Cell::kUnitWeights : 1;

// A unit weight as `forward` and `backward` take it, and its gradient from theirs.
template <class Cell, class A>
FC_HD A prepared(A weight) {
  if constexpr (requires { Cell::prepare(weight); }) return Cell::prepare(weight);
  return weight;
}
template <class Cell, class A>
FC_HD A prepared_grad(A weight, A gradient) {
  if constexpr (requires { Cell::prepare_grad(weight, gradient); }) {
    return Cell::prepare_grad(weight, gradient);
  }
  return gradient;
}

// Calls f(TypeTag<Cell>) for the one dense cell of this kind, the elementwise one, or, of cells
// that the row-wise engine runs, the dense one of one product a step or the row cell.
template <class F>
void dispatch_cell(CellKind kind, F&& f) {
  for_each_cell([&](auto cell, CellKind candidate) {
    if (candidate == kind) f(cell);
  });
}
template <class F>
void dispatch_elementwise_cell(CellKind kind, F&& f) {
  for_each_elementwise_cell([&](auto cell, CellKind candidate) {
    if (candidate == kind) f(cell);
  });
}
template <class F>
void dispatch_rowwise_cell(CellKind kind, F&& f) {
  for_each_cell([&](auto cell, CellKind candidate) {
    if constexpr (!decltype(cell)::type::kTwoProducts) {
      if (candidate == kind) f(cell);
    }
  });
  for_each_row_cell([&](auto cell, CellKind candidate) {
    if (candidate == kind) f(cell);
  });
}

}  // namespace fastcells
