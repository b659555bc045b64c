// The functions of every cell and storage type at one instruction set, as a table.
#pragma once
#include <new>

#include "recurrent/cpu/kernels/backward.h"
#include "recurrent/cpu/kernels/forward.h"
#include "recurrent/cpu/kernels/single_step.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
std::size_t forward_scratch(const cpu::LayerArgs& a, int64_t own_panels, int64_t rows) {
  return Forward<Cell, T, P>::scratch_bytes(a, own_panels, rows);
}
template <class Cell, class T, class P>
void forward(const cpu::ForwardArgs& a, const cpu::Place& place) {
  Forward<Cell, T, P>(a, place).run();
  P::release();
}
// All threads' shares of a group by one thread, step by step: the same bits.
template <class Cell, class T, class P>
void forward_alone(const cpu::ForwardArgs& a, const cpu::Place* places, int count) {
  using Pass = Forward<Cell, T, P>;
  alignas(Pass) char memory[cpu::kMostAlone * sizeof(Pass)];
  Pass* const passes = reinterpret_cast<Pass*>(memory);
  for (int p = 0; p < count; ++p) new (passes + p) Pass(a, places[p]);
  for (int p = 0; p < count; ++p) passes[p].start();
  for (int64_t i = 0; i < a.T; ++i) {
    for (int p = 0; p < count; ++p) passes[p].advance();
  }
  P::release();
}
template <class Cell, class T, class P>
std::size_t backward_scratch(const cpu::BackwardArgs& a) {
  return Backward<Cell, T, P>::scratch_bytes(a);
}
template <class Cell, class T, class P>
void backward(const cpu::BackwardArgs& a, const cpu::Place& place) {
  Backward<Cell, T, P>(a, place).run();
  P::release();
}
template <class Cell, class T, class S>
void step(const cpu::StepArgs& a, int64_t first, int64_t last) {
  for (int64_t b = 0; b < a.B; ++b) Step<Cell, T, S>(a).run(b, {first, last});
}

template <class Cell, class T, class P>
constexpr cpu::CellKernels make_kernels() {
  using S = typename P::S;
  using Sh = Shape<Cell, T, S>;
  cpu::CellKernels k{};
  k.lanes = Sh::L, k.panel_units = Sh::kUnits, k.panel_vectors = Sh::R;
  k.plain_columns = Sh::kColumns;
  k.narrowness = double(sizeof(S)) / sizeof(typename P::Weight);
  k.terms = P::kSpeed * Term<typename P::Row>::kProducts, k.barriers = 1;
  k.instruction_set = Instructions::kName;
  k.gate_panel_bytes = [](int64_t K) { return std::size_t(P::template bytes<Sh::R>(K)); };
  k.forward_scratch = forward_scratch<Cell, T, P>, k.forward = forward<Cell, T, P>;
  k.forward_alone = forward_alone<Cell, T, P>;
  k.pack_gates = pack_gates<GateCount<Cell::kGates>, T, P>;
  if constexpr (std::is_same_v<T, typename P::Weight>) {
    k.takes_own_weights = !P::kConverts;
    k.plain_panel_bytes = [](int64_t K) { return std::size_t(P::template bytes<Sh::kPlain>(K)); };
    k.backward_scratch = backward_scratch<Cell, T, P>, k.backward = backward<Cell, T, P>;
    k.pack_plain = pack_plain<Columns, T, P>;
    k.step = step<Cell, T, S>;
  }
  return k;
}
template <class Cell, class T, class P>
constexpr cpu::CellKernels kKernels = make_kernels<Cell, T, P>();

// find(TypeTag<Cell>) of the cell at that place in the list.
template <class Find, class... Cell>
const cpu::CellKernels* find_in(CellList<Cell...>, int cell, const Find& find) {
  const cpu::CellKernels* found = nullptr;
  int index = 0;
  const auto take = [&](auto tag) {
    using C = typename decltype(tag)::type;
    // Two products a step are left to the stepwise engine.
    if constexpr (!C::kTwoProducts) found = find(tag);
  };
  ((index++ == cell ? take(TypeTag<Cell>{}) : void()), ...);
  return found;
}

inline const cpu::CellKernels* find_whole(int cell, Storage storage, cpu::WeightStorage weights) {
  if (weights != cpu::WeightStorage::kAsTensors) return nullptr;
  return find_in(Cells{}, cell, [&](auto tag) -> const cpu::CellKernels* {
    using Cell = typename decltype(tag)::type;
    if (storage == Storage::kFloat32) return &kKernels<Cell, float, WholePanels<float>>;
    if (storage == Storage::kFloat64) return &kKernels<Cell, double, WholePanels<double>>;
    return nullptr;
  });
}

// bfloat16, which P keeps.
template <class P>
const cpu::CellKernels* find_bfloat16(int cell, Storage storage, cpu::WeightStorage weights) {
  return find_in(Cells{}, cell, [&](auto tag) -> const cpu::CellKernels* {
    using Cell = typename decltype(tag)::type;
    if (weights == cpu::WeightStorage::kAsTensors && storage == Storage::kBFloat16) {
      return &kKernels<Cell, BFloat16Bits, P>;
    }
    if (weights == cpu::WeightStorage::kBFloat16 && storage == Storage::kFloat32) {
      return &kKernels<Cell, float, P>;
    }
    return nullptr;
  });
}
inline const cpu::CellKernels* find_float16(int cell, Storage storage, cpu::WeightStorage weights) {
  if (weights != cpu::WeightStorage::kAsTensors || storage != Storage::kFloat16) return nullptr;
  return find_in(Cells{}, cell, [](auto tag) -> const cpu::CellKernels* {
    return &kKernels<typename decltype(tag)::type, HalfBits, NarrowPanels<HalfBits>>;
  });
}
template <class P = QuadPanels>
const cpu::CellKernels* find_int8(int cell, Storage storage, cpu::WeightStorage weights) {
  if (weights != cpu::WeightStorage::kInt8 || storage != Storage::kFloat32) return nullptr;
  return find_in(Cells{}, cell, [](auto tag) -> const cpu::CellKernels* {
    return &kKernels<typename decltype(tag)::type, float, P>;
  });
}

// Every width, bfloat16 widened.
inline const cpu::CellKernels* find_narrow(int cell, Storage storage, cpu::WeightStorage weights) {
  const cpu::CellKernels* found = find_bfloat16<NarrowPanels<BFloat16Bits>>(cell, storage, weights);
  if (!found) found = find_float16(cell, storage, weights);
  return found ? found : find_int8(cell, storage, weights);
}

}  // namespace
}  // namespace fastcells
