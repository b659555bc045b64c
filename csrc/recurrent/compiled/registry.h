// The cells that were compiled by themselves and loaded: they stand behind the built-in ones, and
// stay. Torch-free.
#pragma once
#include <map>
#include <string>

#include "recurrent/cells/dispatch.h"
#include "recurrent/compiled/library.h"

namespace fastcells::compiled {

// The first CellKind of a compiled cell.
constexpr int kFirst = Cells::kCount + ElementwiseCells::kCount + RowCells::kCount;
constexpr bool is_compiled(CellKind kind) { return int(kind) >= kFirst; }

// Takes a library, which stays loaded: the first of a cell, or one of another storage. Throws
// std::invalid_argument where it was compiled against other headers.
void take(const CellLibrary& library);

// What the constants of a printed struct (kGates, ...) tell of its cell; a library without kernels.
// `name` must live as long.
CellLibrary facts_of(const std::string& name, const std::map<std::string, int>& constants);
// Takes what is known of a cell whose kernels are a GPU's; its place, also where it was known.
int declare(const CellLibrary& facts);

// The library of a cell's first storage, or nullptr; the place of the cell among the compiled ones.
const CellLibrary* find(std::string_view name, int& place);
// The library of a storage, or nullptr.
const CellLibrary* find(CellKind kind, Storage storage);

}  // namespace fastcells::compiled
