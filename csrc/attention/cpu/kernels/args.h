// What the attention engine of the CPU asks of an instruction set: arguments and a table of
// functions. No function is defined here, so that none is compiled for two instruction sets.
// Torch-free.
//
// A call is cut into tasks that write different memory, so their order does not matter. Letters:
// attention/args.h.
#pragma once
#include <cstddef>
#include <cstdint>

#include "attention/args.h"
#include "storage.h"

namespace fastcells::cpu {

struct AttentionBackwardArgs : AttentionArgs {
  HeadMatrix grad_output, output;  // T
  const void* grad_weights;        // T [B, N, Tq, Tk] or nullptr: zero
  const void* logsumexp;           // A [B, N, Tq, 2]: the forward pass's
  std::int64_t key_chunks;         // parts of Tk that are tasks of their own
  void* d_query;                   // A [key_chunks, B, N, Tq, E] out: to be summed up
  void* d_key;                     // T [B, Nk, Tk, E] out
  void* d_value;                   // T [B, Nk, Tk, Ev] out
  void* d_units;                   // A [tasks, E] out, of an additive score: to be summed up
  // A, shaped like the mask, added to; or nullptr. Tasks may share it, or have one a thread.
  void* d_mask;
};

// For one storage type. Scratch is a thread's own.
struct AttentionKernels {
  std::int64_t (*forward_tasks)(const AttentionForwardArgs&);
  std::size_t (*forward_scratch)(const AttentionForwardArgs&);
  void (*forward)(const AttentionForwardArgs&, std::int64_t task, void* scratch);
  std::int64_t (*backward_tasks)(const AttentionBackwardArgs&);
  std::size_t (*backward_scratch)(const AttentionBackwardArgs&);
  void (*backward)(const AttentionBackwardArgs&, std::int64_t task, void* scratch);
  std::int64_t key_block;  // keys of a tile
};

// Scaled products, or sum_d units_d tanh(q_d + k_d), with E the number of units.
enum class Score { kDot, kAdditive };

// The kernels of one instruction set; nullptr for a storage that has none.
using FindAttention = const AttentionKernels*(Score score, Storage storage);
FindAttention baseline_attention, avx2_attention, avx512_attention;

}  // namespace fastcells::cpu
