// Arguments of the kernels that take a layer through all its steps: plain data. Torch-free.
//
// Letters as in docs/notation.md; T_ is storage (float32, float16 or bfloat16), gates and cell
// states are float32. The engine owns every buffer. Strides are in elements, from row to row; a
// step is B rows.
#pragma once
#include <cstdint>

namespace fastcells {

// What the blocks of a grid exchange, a direction; nullptr where no grid is launched. Zero at
// first, in every launch: counts and tags begin there.
struct SequenceExchange {
  void* buffers;       // T_ [2, slices, rows, columns + padding]: plan.exchange_bytes
  unsigned* counters;  // [slices, cuda::kCounterWords]: how often warps have published; not read
                       // where packets are exchanged
};

struct SequenceDirection {
  const float* x_gates;            // [T, B, G*H] without bias
  const void* weight_hh;           // T_ [G*H, H]
  const float *bias_ih, *bias_hh;  // [G*H] or nullptr
  const void *h_0, *c_0;           // T_ [B, H] or nullptr: zeros
  void* output;                    // T_ [T, B, H] out: 0 where a step does not exist
  void *h_n, *c_n;                 // T_ [B, H] out; c_n nullptr for a cell without c
  float* cells;                    // [T, B, H] out, or nullptr: not wanted
  void* saved;                     // T_ [T, B, S*H] out, or nullptr: no way back
  SequenceExchange exchange;
  bool reverse;
};

struct SequenceForwardArgs {
  std::int64_t T, B, H;
  const std::int64_t* lengths;  // [B] or nullptr: T
  const bool* resets;           // [T, B] or nullptr: none
  std::int64_t output_stride, cells_stride, saved_stride;
  SequenceDirection directions[2];  // one a row of blocks (blockIdx.y)
};

struct SequenceBackwardDirection {
  const void* weight_hh_t;    // T_ [G, H, H]: W_hh with each gate transposed, [to][from]
  const void* saved;          // T_ [T, B, S*H]
  const void* output;         // T_ [T, B, H]: the forward pass's
  const float* cells;         // [T, B, H]: the forward pass's; nullptr for a cell without c
  const void *h_0, *c_0;      // T_ [B, H] or nullptr: zeros
  const void* d_output;       // T_ [T, B, H] or nullptr: zero
  const float* d_cells;       // [T, B, H] or nullptr: zero
  const void *d_h_n, *d_c_n;  // T_ [B, H] or nullptr: zero
  void *dx_gates, *dg_gates;  // T_ [T, B, G*H] out, 0 where a step does not exist; dg_gates is
                              // nullptr for an additive cell: they are dx_gates
  float *d_h_0, *d_c_0;       // [B, H] out; d_c_0 nullptr for a cell without c
  SequenceExchange exchange;
  bool reverse;
};

struct SequenceBackwardArgs {
  std::int64_t T, B, H;
  const std::int64_t* lengths;                             // [B] or nullptr: T
  const bool* resets;                                      // [T, B] or nullptr: none
  std::int64_t output_stride, cells_stride, saved_stride;  // of d_output and d_cells, too
  SequenceBackwardDirection directions[2];                 // one a row of blocks (blockIdx.y)
};

}  // namespace fastcells
