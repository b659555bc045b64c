// One attention call in plain data: what the kernels of every device read and write. Torch-free.
//
// Letters: B batch, N heads of queries, Nk heads of keys, Tq, Tk steps, E width of a key, Ev of a
// value, D units of an additive score. T is storage, A the arithmetic type (float, double for
// float64).
#pragma once
#include <cstdint>

namespace fastcells {

// A matrix a batch row and head: element (b, n, t, e) is data[b*batch + n*head + t*row + e].
struct HeadMatrix {
  const void* data;
  std::int64_t batch, head, row;
};

// [B, N, Tq, Tk] of bool (true: attend), or added to the scores: of T (kAdded), or of A
// (kAddedWide), which beside 16-bit tensors keeps the width that a caller's float32 mask came with.
// Only false and minus infinity hide a key. The stride of a dimension that is broadcast is 0, that
// of the keys 1.
struct AttentionMask {
  enum class Kind { kNone, kBool, kAdded, kAddedWide } kind;
  const void* data;
  std::int64_t batch, head, query, key;
};

// The widest head, of keys and of values, that the CUDA kernels of dot products hold.
inline constexpr std::int64_t kMostHeadWidthCuda = 256;

struct AttentionDropout {
  const std::int64_t* seed;  // [1], where the tensors are
  std::uint64_t threshold;   // a word below it is dropped
  double keep_scale;         // 1 / (1 - p)
  bool is_on;
};

struct AttentionArgs {
  std::int64_t B, N, Nk, Tq, Tk, E, Ev;
  HeadMatrix query, key, value;  // T
  AttentionMask mask;
  const std::int64_t* key_lengths;  // [B] or nullptr: Tk
  // [B, Nk, Tk], or nullptr: all. Keys that some query sees, where a mask is given. CUDA kernels
  // take zeros in the place of the others, which may hold anything; a CPU's look at the mask
  // itself.
  const bool* seen;
  double scale, softcap;     // softcap 0: none
  std::int64_t left, right;  // negative: no limit
  std::int64_t offset;
  AttentionDropout dropout;
  const void* units;  // A [E]: the scale of an additive score; else nullptr
};

struct AttentionForwardArgs : AttentionArgs {
  void* output;     // T [B, N, Tq, Ev] out
  void* logsumexp;  // A [B, N, Tq, 2] out: a row's largest score, and the logarithm of its sum of
                    // exponentials below it; minus infinity and 0 for a row that sees nothing
  void* weights;    // T [B, N, Tq, Tk] out, or nullptr
};

}  // namespace fastcells
