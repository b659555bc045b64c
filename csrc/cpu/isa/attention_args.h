// What the attention engine of the CPU asks of an instruction set: plain arguments and a table of
// functions, as cpu/isa/kernels.h does for the cells. Torch-free.
//
// Letters: B batch, N heads of queries, Nk heads of keys, Tq, Tk steps, E width of a key, Ev of a
// value, D units of an additive score. T is storage, A the arithmetic type (float, double for
// float64). A call is cut into tasks that write different memory, so their order does not matter.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastcells::cpu {

// A matrix a batch row and head: element (b, n, t, e) is data[b*batch + n*head + t*row + e].
struct HeadMatrix {
  const void* data;
  std::int64_t batch, head, row;
};

// T or bool [B, N, Tq, Tk]; the stride of a dimension that is broadcast is 0, that of the keys 1.
struct AttentionMask {
  enum class Kind { kNone, kBool, kAdded } kind;
  const void* data;
  std::int64_t batch, head, query, key;
};

struct AttentionDropout {
  std::uint64_t seed;
  std::uint64_t threshold;  // a word below it is dropped
  double keep_scale;        // 1 / (1 - p)
  bool is_on;
};

struct AttentionArgs {
  std::int64_t B, N, Nk, Tq, Tk, E, Ev;
  HeadMatrix query, key, value;  // T
  AttentionMask mask;
  const std::int64_t* key_lengths;  // [B] or nullptr: Tk
  double scale, softcap;            // softcap 0: none
  std::int64_t left, right;         // negative: no limit
  std::int64_t offset;
  AttentionDropout dropout;
  const void* units;  // A [E]: the scale of an additive score; else nullptr
};

struct AttentionForwardArgs : AttentionArgs {
  void* output;     // T [B, N, Tq, Ev] out
  void* logsumexp;  // A [B, N, Tq] out
  void* weights;    // T [B, N, Tq, Tk] out, or nullptr
};

struct AttentionBackwardArgs : AttentionArgs {
  HeadMatrix grad_output, output;  // T
  const void* grad_weights;        // T [B, N, Tq, Tk] or nullptr: zero
  const void* logsumexp;           // A [B, N, Tq]
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
  std::int64_t (*forward_tasks)(const AttentionArgs&);
  std::size_t (*forward_scratch)(const AttentionArgs&);
  void (*forward)(const AttentionForwardArgs&, std::int64_t task, void* scratch);
  std::int64_t (*backward_tasks)(const AttentionBackwardArgs&);
  std::size_t (*backward_scratch)(const AttentionBackwardArgs&);
  void (*backward)(const AttentionBackwardArgs&, std::int64_t task, void* scratch);
  std::int64_t key_block;  // keys of a tile
};

// Scaled products, or sum_d units_d tanh(q_d + k_d), with E the number of units.
enum class Score { kDot, kAdditive };

}  // namespace fastcells::cpu
