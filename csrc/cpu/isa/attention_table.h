// The attention functions of every storage type at one instruction set, as a table.
#pragma once
#include "cpu/isa/attention_backward.h"
#include "cpu/isa/attention_forward.h"
#include "cpu/isa/kernels.h"

namespace fastcells {
namespace {

template <class Pass, class Args>
void run_task(const Args& a, int64_t task, void* scratch) {
  Pass(a, task, scratch).run();
}

template <class T, class S, bool kAdditive>
constexpr cpu::AttentionKernels kAttentionKernels = {
    AttentionForward<T, S, kAdditive>::tasks,
    AttentionForward<T, S, kAdditive>::scratch_bytes,
    run_task<AttentionForward<T, S, kAdditive>, AttentionForwardArgs>,
    AttentionBackward<T, S, kAdditive>::tasks,
    AttentionBackward<T, S, kAdditive>::scratch_bytes,
    run_task<AttentionBackward<T, S, kAdditive>, cpu::AttentionBackwardArgs>,
    AttentionShape<T, S>::kKeys,
};

template <bool kAdditive>
const cpu::AttentionKernels* attention_of(cpu::CellStorage storage) {
  switch (storage) {
    case cpu::CellStorage::kFloat32: return &kAttentionKernels<float, float, kAdditive>;
    case cpu::CellStorage::kFloat64: return &kAttentionKernels<double, double, kAdditive>;
    case cpu::CellStorage::kBFloat16: return &kAttentionKernels<BFloat16Bits, float, kAdditive>;
  }
  return nullptr;
}

const cpu::AttentionKernels* find_attention(cpu::Score score, cpu::CellStorage storage) {
  return score == cpu::Score::kAdditive ? attention_of<true>(storage)
                                        : attention_of<false>(storage);
}

}  // namespace
}  // namespace fastcells
