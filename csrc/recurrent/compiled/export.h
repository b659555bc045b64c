// What the one source file of a compiled cell includes, behind one of
// cpu/simd/{baseline,avx2,avx512}.h and in front of the cell's struct. Torch-free.
#pragma once
#define FASTCELLS_LISTS "recurrent/compiled/no_cells.h"  // none of the built-in cells' kernels
#include "cpu/simd/elementary.h"
#include "recurrent/compiled/library.h"
#include "recurrent/cpu/kernels/table.h"
#include "recurrent/elementwise/cpu/kernels/table.h"
#include "recurrent/rowwise/cpu/kernels/table.h"

namespace fastcells {
namespace {

// A cell says `kWholeRows = true` where its layers take the row-wise engine; an elementwise one has
// kReadsInput. Storage, and panels of weights as the kernels of built-in cells have them.
template <class T>
struct Stored {
  using Panels = NarrowPanels<T>;
  static constexpr Storage kStorage =
      std::is_same_v<T, HalfBits> ? Storage::kFloat16 : Storage::kBFloat16;
};
template <>
struct Stored<float> {
  using Panels = WholePanels<float>;
  static constexpr Storage kStorage = Storage::kFloat32;
};
template <>
struct Stored<double> {
  using Panels = WholePanels<double>;
  static constexpr Storage kStorage = Storage::kFloat64;
};

template <class Cell, class T>
constexpr compiled::CellLibrary library_of() {
  compiled::CellLibrary library{};
  library.layout = compiled::kLayout, library.name = Cell::kName;
  library.gates = Cell::kGates, library.states = Cell::kStates, library.saved = Cell::kSaved;
  library.storage = Stored<T>::kStorage;
  if constexpr (requires { Cell::kUnitWeights; }) library.unit_weights = Cell::kUnitWeights;
  if constexpr (requires { Cell::kReadsInput; }) {
    library.is_elementwise = true, library.additive = true;
    library.elementwise = &kElementwise<Cell, T, typename Stored<T>::Panels>;
  } else if constexpr (requires { Cell::kWholeRows; }) {
    library.additive = Cell::kAdditive, library.whole_rows = true;
    library.rowwise = &kRowwise<Cell, T, typename Stored<T>::Panels>;
  } else {
    library.additive = Cell::kAdditive;
    library.dense = &kKernels<Cell, T, typename Stored<T>::Panels>;
  }
  return library;
}

}  // namespace
}  // namespace fastcells
