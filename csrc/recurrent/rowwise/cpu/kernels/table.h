// The functions of every dense cell and storage type at one instruction set, as a table.
#pragma once
#include "recurrent/rowwise/cpu/kernels/backward.h"
#include "recurrent/rowwise/cpu/kernels/forward.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
std::size_t rowwise_forward_scratch(const rowwise::ForwardArgs& a) {
  return RowwiseForward<Cell, T, P>::scratch_bytes(a);
}
template <class Cell, class T, class P>
void rowwise_forward(const rowwise::ForwardArgs& a, const cpu::Place& place) {
  RowwiseForward<Cell, T, P>(a, place).run();
}
template <class Cell, class T, class P>
std::size_t rowwise_backward_scratch(const rowwise::BackwardArgs& a) {
  return RowwiseBackward<Cell, T, P>::scratch_bytes(a);
}
template <class Cell, class T, class P>
void rowwise_backward(const rowwise::BackwardArgs& a, const cpu::Place& place) {
  RowwiseBackward<Cell, T, P>(a, place).run();
}

template <class Cell, class T, class P>
constexpr rowwise::Kernels make_rowwise_kernels() {
  using Sh = Shape<Columns, T, typename P::S>;
  rowwise::Kernels k{};
  k.packs.lanes = Sh::L, k.packs.panel_units = Sh::kUnits, k.packs.panel_vectors = Sh::R;
  k.packs.plain_columns = Sh::kColumns;
  // Up to four where c is normalised, two where nothing is: few steps are worth sharing a row for.
  k.packs.narrowness = 1, k.packs.terms = 1, k.packs.barriers = 4;
  k.packs.instruction_set = Instructions::kName;
  k.packs.gate_panel_bytes = [](int64_t K) { return std::size_t(P::template bytes<Sh::R>(K)); };
  k.packs.plain_panel_bytes = [](int64_t K) {
    return std::size_t(P::template bytes<Sh::kPlain>(K));
  };
  k.packs.pack_gates = pack_gates<Columns, T, P>, k.packs.pack_plain = pack_plain<Columns, T, P>;
  k.forward_scratch = rowwise_forward_scratch<Cell, T, P>;
  k.forward = rowwise_forward<Cell, T, P>;
  k.backward_scratch = rowwise_backward_scratch<Cell, T, P>;
  k.backward = rowwise_backward<Cell, T, P>;
  return k;
}
template <class Cell, class T, class P>
constexpr rowwise::Kernels kRowwise = make_rowwise_kernels<Cell, T, P>();

template <class... Cell>
const rowwise::Kernels* find_rowwise_in(CellList<Cell...>, int cell, Storage storage) {
  const rowwise::Kernels* found = nullptr;
  int index = 0;
  const auto take = [&](auto tag) {
    using C = typename decltype(tag)::type;
    switch (storage) {
      case Storage::kFloat32: found = &kRowwise<C, float, WholePanels<float>>; break;
      case Storage::kFloat64: found = &kRowwise<C, double, WholePanels<double>>; break;
      case Storage::kFloat16: found = &kRowwise<C, HalfBits, NarrowPanels<HalfBits>>; break;
      case Storage::kBFloat16:
        found = &kRowwise<C, BFloat16Bits, NarrowPanels<BFloat16Bits>>;
        break;
    }
  };
  ((index++ == cell ? take(TypeTag<Cell>{}) : void()), ...);
  return found;
}
inline const rowwise::Kernels* find_rowwise(int cell, Storage storage) {
  constexpr int kFirst = Cells::kCount + ElementwiseCells::kCount;
  return cell < kFirst ? find_rowwise_in(Cells{}, cell, storage)
                       : find_rowwise_in(RowCells{}, cell - kFirst, storage);
}

}  // namespace
}  // namespace fastcells
