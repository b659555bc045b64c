// Weights in the order in which the kernels read them, kept from call to call.
//
// A pack is found by where its weight lies and is used only while a hash of every byte of the
// weight is what it was: torch's version counter misses what is written through `.data`, numpy or
// another process, and a stale weight would be a wrong result without a word. Of a frozen weight
// the counter is enough, by the user's word. A pack goes when its weight's storage has gone, at the
// next look-up or count.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>

#include "cpu/memory.h"
#include "recurrent/cpu/kernels/args.h"

namespace fastcells::cpu {

struct Pack {
  Memory panels;
  Memory bias;  // nullptr without one
  std::size_t bytes = 0;
};

// W [G*H, K], the scales of its rows if it is int8, and its bias [G*H] (or undefined) as panels of
// gates.
std::shared_ptr<const Pack> pack_gates(const CellKernels& kernels, int gates,
                                       const at::Tensor& weight, const at::Tensor& scale,
                                       const at::Tensor& bias);
// W [K, N] as plain panels.
std::shared_ptr<const Pack> pack_plain(const CellKernels& kernels, const at::Tensor& weight);

// The user's word that nothing but what torch counts writes to this weight from now on, or no more.
void freeze(const at::Tensor& weight, bool frozen);
bool is_frozen(const at::Tensor& weight);

// Bytes of all packs whose weights are alive.
std::size_t packed_bytes();

}  // namespace fastcells::cpu
