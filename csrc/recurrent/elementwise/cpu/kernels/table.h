// The functions of every elementwise cell and storage type at one instruction set, as a table.
#pragma once
#include "recurrent/elementwise/cpu/kernels/backward.h"
#include "recurrent/elementwise/cpu/kernels/backward_lanes.h"
#include "recurrent/elementwise/cpu/kernels/forward.h"
#include "recurrent/elementwise/cpu/kernels/forward_lanes.h"

namespace fastcells {
namespace {

template <class T, class P>
std::size_t elementwise_forward_scratch(const elementwise::WalkArgs& a) {
  return ElementwiseForward<T, P>::scratch_bytes(a);
}
template <class T, class P>
void elementwise_forward(const elementwise::ForwardArgs& a, const elementwise::Share& share) {
  ElementwiseForward<T, P>(a, share).run();
}
template <class T, class P>
std::size_t elementwise_backward_scratch(const elementwise::BackwardArgs& a) {
  return ElementwiseBackward<T, P>::scratch_bytes(a);
}
template <class T, class P>
void elementwise_backward(const elementwise::BackwardArgs& a, const elementwise::Share& share) {
  ElementwiseBackward<T, P>(a, share).run();
}

template <class Cell, class T, class S>
void walk_forward(const elementwise::ForwardArgs& a, elementwise::Span span,
                  const elementwise::Lane* lanes, int count) {
  ForwardLanes<Cell, T, S>(a).run(span, lanes, count);
}
template <class Cell, class T, class S>
void walk_backward(const elementwise::BackwardArgs& a, elementwise::Span span,
                   const elementwise::Lane& lane, int64_t block) {
  BackwardLanes<Cell, T, S>(a).run(span, lane, block);
}

// Storage to arithmetic, one at a time.
template <class T, class S>
FC_INLINE S widened(const T* p) {
  return load_first(p, 1).v[0];
}
template <class Cell, class T, class S>
void prepare_units(const void* weight, int64_t H, int64_t padded_H, void* out) {
  for (int k = 0; k < Cell::kUnitWeights; ++k) {
    S* const to = static_cast<S*>(out) + k * padded_H;
    for (int64_t u = 0; u < padded_H; ++u) {
      to[u] = u < H ? prepared<Cell>(widened<T, S>(static_cast<const T*>(weight) + k * H + u)) : 0;
    }
  }
}
template <class Cell, class T, class S>
void prepare_units_grad(const void* weight, const void* grad, int64_t H, int64_t padded_H,
                        void* out) {
  for (int k = 0; k < Cell::kUnitWeights; ++k) {
    for (int64_t u = 0; u < H; ++u) {
      static_cast<S*>(out)[k * H + u] =
          prepared_grad<Cell>(widened<T, S>(static_cast<const T*>(weight) + k * H + u),
                              static_cast<const S*>(grad)[k * padded_H + u]);
    }
  }
}

template <class Cell, class T, class P>
constexpr elementwise::Kernels make_elementwise_kernels() {
  using S = typename P::S;
  using Sh = Shape<Cell, T, S>;
  elementwise::Kernels k{};
  k.packs.lanes = Sh::L, k.packs.panel_units = Sh::kUnits, k.packs.panel_vectors = Sh::R;
  k.packs.plain_columns = Sh::kColumns;
  k.packs.instruction_set = Instructions::kName;
  k.packs.gate_panel_bytes = [](int64_t K) { return std::size_t(P::template bytes<Sh::R>(K)); };
  k.packs.plain_panel_bytes = [](int64_t K) {
    return std::size_t(P::template bytes<Sh::kPlain>(K));
  };
  k.packs.pack_gates = pack_gates<GateCount<Cell::kGates>, T, P>,
  k.packs.pack_plain = pack_plain<Columns, T, P>;
  k.forward_scratch = elementwise_forward_scratch<T, P>;
  k.forward = elementwise_forward<T, P>;
  k.backward_scratch = elementwise_backward_scratch<T, P>;
  k.backward = elementwise_backward<T, P>;
  k.cell.gates = Sh::G, k.cell.unit_vectors = Sh::W, k.cell.states = Cell::kStates;
  k.cell.saved = Cell::kSaved, k.cell.unit_weights = Cell::kUnitWeights;
  k.cell.reads_input = Cell::kReadsInput;
  k.cell.multiply = multiply_gates<Sh::G, T, P>;
  k.cell.forward = walk_forward<Cell, T, S>, k.cell.backward = walk_backward<Cell, T, S>;
  k.prepare = prepare_units<Cell, T, S>, k.prepare_grad = prepare_units_grad<Cell, T, S>;
  return k;
}
template <class Cell, class T, class P>
constexpr elementwise::Kernels kElementwise = make_elementwise_kernels<Cell, T, P>();

template <class... Cell>
const elementwise::Kernels* find_elementwise_in(CellList<Cell...>, int cell, Storage storage) {
  const elementwise::Kernels* found = nullptr;
  int index = 0;
  const auto take = [&](auto tag) {
    using C = typename decltype(tag)::type;
    switch (storage) {
      case Storage::kFloat32: found = &kElementwise<C, float, WholePanels<float>>; break;
      case Storage::kFloat64: found = &kElementwise<C, double, WholePanels<double>>; break;
      case Storage::kFloat16: found = &kElementwise<C, HalfBits, NarrowPanels<HalfBits>>; break;
      case Storage::kBFloat16:
        found = &kElementwise<C, BFloat16Bits, NarrowPanels<BFloat16Bits>>;
        break;
    }
  };
  ((index++ == cell ? take(TypeTag<Cell>{}) : void()), ...);
  return found;
}
inline const elementwise::Kernels* find_elementwise(int cell, Storage storage) {
  return find_elementwise_in(ElementwiseCells{}, cell, storage);
}

}  // namespace
}  // namespace fastcells
