// From a cell that is known at run time to its type. No other file switches on a cell. Torch-free.
#pragma once
#include "recurrent/cells/cells.h"
#include "storage.h"

namespace fastcells {

// Position in the list of cells/cells.h.
enum class CellKind : int {};

// Calls f(TypeTag<Cell>, kind) for every cell, in the order of the list.
template <class F, class... Cell>
void for_each_cell_in(CellList<Cell...>, F&& f) {
  int index = 0;
  (f(TypeTag<Cell>{}, CellKind(index++)), ...);
}
template <class F>
void for_each_cell(F&& f) {
  for_each_cell_in(Cells{}, f);
}

// Calls f(TypeTag<Cell>) for the one cell of this kind.
template <class F>
void dispatch_cell(CellKind kind, F&& f) {
  for_each_cell([&](auto cell, CellKind candidate) {
    if (candidate == kind) f(cell);
  });
}

}  // namespace fastcells
