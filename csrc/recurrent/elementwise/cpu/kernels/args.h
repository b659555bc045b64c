// What the engine of elementwise cells asks of an instruction set: plain arguments and a table of
// functions. Torch-free; nothing is defined here, so that nothing is compiled for two sets.
//
// Letters as in docs/notation.md; V unit weights, T is storage, A arithmetic. A lane is a unit of a
// row; lanes of one panel of W_ih (recurrent/cpu/kernels/args.h) walk through time side by side.
// Rows are dealt out in blocks, and each product has the rows of one block, a chunk of steps and
// one panel: what is summed in which order does not depend on the threads.
#pragma once
#include "recurrent/cpu/kernels/args.h"

namespace fastcells::elementwise {

using std::int64_t;

struct CellWalk;

struct WalkArgs {
  const CellWalk* cell;
  int64_t T, B, I, H, padded_H;
  int64_t block_rows, chunk_steps;
  bool reverse;
  int64_t raw_column;        // where the columns of the input begin that units read as they are
  const void* input;         // T [T, B, I]
  const void* h_0;           // T [B, H] or nullptr: zeros
  const void* c_0;           // T [B, N*H] or nullptr: zeros
  const int64_t* lengths;    // [B] or nullptr: T
  const bool* resets;        // [T, B] or nullptr: none
  const void* unit_weights;  // A [V][padded H], prepared
  const void* skip_scale;    // A [padded H] or nullptr: 1
  const void* panels;        // of W_ih; nullptr where a single step reads the weights as they lie
  const void* bias;          // A [panels][W*G*lanes] or nullptr
  const void* own_weight;    // T [G*H, I] in the place of panels, or nullptr
  const void* own_bias;      // T [G*H] or nullptr
  int64_t output_stride, cells_stride, saved_stride;  // from row to row; a step is B rows
};

struct ForwardArgs : WalkArgs {
  void* output;   // T [T, B, H]
  void* h_n;      // T [B, H]
  void* c_n;      // T [B, N*H] or nullptr
  void* cells;    // A [T, B, N*H] or nullptr: not wanted
  void* saved;    // T [T, B, S*H] or nullptr: not wanted
  void* carry_h;  // A [B][padded H] scratch: between chunks
  void* carry_c;  // A [B][N][padded H] scratch
};

struct BackwardArgs : WalkArgs {
  const void* output;    // T [T, B, H]: the forward pass's
  const void* cells;     // A [T, B, N*H] or nullptr: a cell without c
  const void* saved;     // T [T, B, S*H] or nullptr: to be computed again
  const void* d_output;  // T [T, B, H] or nullptr: zero
  const void* d_cells;   // A [T, B, N*H] or nullptr: zero
  const void* d_h_n;     // T [B, H] or nullptr: zero
  const void* d_c_n;     // T [B, N*H] or nullptr: zero
  const void* plain;     // plain panels of W_ih, or nullptr: no d_input
  void* d_input;         // A [T, B, I] out, or nullptr. Rows that do not exist are left alone
  bool add_to_d_input;
  void* d_weight_ih;     // A [G*H, I] out, or nullptr
  void* d_bias_ih;       // A [G*H] out, or nullptr
  void* d_unit_weights;  // A [row blocks][V + 1][padded H], zeros: out; skip_scale's the last
  void* d_h_0;           // A [B, H] out, or nullptr
  void* d_c_0;           // A [B, N*H] out, or nullptr
  void* carry_dh;        // A [B][padded H] scratch
  void* carry_dc;        // A [B][N][padded H] scratch
  void* dx_gates;        // A [B*chunk_steps][G*H] scratch
  void* d_raw;           // A [B*chunk_steps][I] zeros, of a cell that reads the input: scratch
  void* plain_x;         // A [panels][B*chunk_steps][2*lanes] scratch: the input of a chunk
};

// A thread's share: of the panels of units and of the blocks of rows, and (on the way back) of the
// products over all units.
struct Share {
  int unit_rank, unit_threads, row_rank, row_threads, rank, threads;
  cpu::Barrier* barrier;
  void* scratch;
};

// The steps of a row in a chunk, in the order of computation, and its first frame.
struct Span {
  int64_t first, last, frame;
};

// A unit vector of row b, from unit u on, and its gates A [frames of the row][R*lanes] in a chunk.
struct Lane {
  int64_t b, u;
  const void* gates;
};

// What the walk through time asks of a cell, at one storage: all else knows no cell.
struct CellWalk {
  int gates, unit_vectors, states, saved, unit_weights;  // unit vectors of a panel
  bool reads_input;
  // The products of input rows A [frames][I] with panel q: A [frames][R*lanes]. `panel` and `bias`
  // are scratch for weights that are read as they lie.
  void (*multiply)(const WalkArgs&, int64_t q, int64_t frames, const void* input_rows, void* out,
                   void* panel, void* bias);
  // One, two or four lanes of the same steps.
  void (*forward)(const ForwardArgs&, Span, const Lane*, int lanes);
  // A lane of a block of rows; without gates these are not computed again.
  void (*backward)(const BackwardArgs&, Span, const Lane&, int64_t block);
};

struct Kernels {
  cpu::CellKernels packs;  // what cpu/packs.h asks: sizes of panels, pack_gates and pack_plain
  std::size_t (*forward_scratch)(const WalkArgs&);
  void (*forward)(const ForwardArgs&, const Share&);
  std::size_t (*backward_scratch)(const BackwardArgs&);
  void (*backward)(const BackwardArgs&, const Share&);
  CellWalk cell;
  // weight_hh T [V*H] -> A [V][padded H], zeros past the last unit; and the gradient A [V][padded
  // H] of that -> A [V*H].
  void (*prepare)(const void* weight, int64_t H, int64_t padded_H, void* out);
  void (*prepare_grad)(const void* weight, const void* grad, int64_t H, int64_t padded_H,
                       void* out);
};

// nullptr where there is no such cell. `cell` is the place in the list ElementwiseCells.
using FindKernels = const Kernels* (*)(int cell, Storage);
const Kernels* baseline_kernels(int cell, Storage storage);
const Kernels* avx2_kernels(int cell, Storage storage);
const Kernels* avx512_kernels(int cell, Storage storage);
// Those of the instruction set in use (elementwise/cpu/table.cpp).
const Kernels* find_kernels(int cell, Storage storage);

}  // namespace fastcells::elementwise
