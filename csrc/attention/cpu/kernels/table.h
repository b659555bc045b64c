// The attention functions of every storage type at one instruction set, as a table.
#pragma once
#include "attention/cpu/kernels/backward.h"
#include "attention/cpu/kernels/forward.h"
#include "attention/cpu/kernels/rows_backward.h"

namespace fastcells {
namespace {

// A pass over rows for a few queries, over tiles otherwise.
template <class Rows, class Tiles, class Args>
struct EitherPass {
  static bool is_rows(const AttentionArgs& a) { return a.Tq <= kMostRows; }
  static int64_t tasks(const Args& a) { return is_rows(a) ? Rows::tasks(a) : Tiles::tasks(a); }
  static std::size_t scratch(const Args& a) {
    return is_rows(a) ? Rows::scratch_bytes(a) : Tiles::scratch_bytes(a);
  }
  static void run(const Args& a, int64_t task, void* memory) {
    if (is_rows(a)) {
      Rows(a, task, memory).run();
    } else {
      Tiles(a, task, memory).run();
    }
  }
};

template <class T, class S, bool kAdditive>
struct AttentionPasses {
  using Forward = EitherPass<RowsForward<T, S, kAdditive>, AttentionForward<T, S, kAdditive>,
                             AttentionForwardArgs>;
  using Backward = EitherPass<RowsBackward<T, S, kAdditive>, AttentionBackward<T, S, kAdditive>,
                              cpu::AttentionBackwardArgs>;
  static constexpr cpu::AttentionKernels kKernels = {
      Forward::tasks,
      Forward::scratch,
      Forward::run,
      Backward::tasks,
      Backward::scratch,
      Backward::run,
      AttentionShape<T, S>::kKeys,
  };
};

template <bool kAdditive>
const cpu::AttentionKernels* attention_of(Storage storage) {
  switch (storage) {
    case Storage::kFloat32: return &AttentionPasses<float, float, kAdditive>::kKernels;
    case Storage::kFloat64: return &AttentionPasses<double, double, kAdditive>::kKernels;
    case Storage::kBFloat16: return &AttentionPasses<BFloat16Bits, float, kAdditive>::kKernels;
    case Storage::kFloat16: return nullptr;
  }
  return nullptr;
}

inline const cpu::AttentionKernels* find_attention(cpu::Score score, Storage storage) {
  return score == cpu::Score::kAdditive ? attention_of<true>(storage)
                                        : attention_of<false>(storage);
}

}  // namespace
}  // namespace fastcells
