// What the engine of layers that look at whole rows asks of an instruction set: plain arguments and
// a table of functions. Torch-free; nothing is defined here, so that nothing is compiled for two
// sets.
//
// Letters as in docs/notation.md; T is storage, A arithmetic. Gates lie in rows of G*H columns,
// padded to whole panels of W seen as a matrix of columns (kernels/chunk_products.h: Columns), so
// that the products know no cell. In place of the panels' biases (cpu::LayerArgs) stand those of
// the columns.
#pragma once
#include "recurrent/cpu/kernels/args.h"
#include "recurrent/rowwise/noise.h"

namespace fastcells::rowwise {

// What ForwardArgs::saved and BackwardArgs::saved point to: with a norm A [T, B, 2*G*H], W x and W
// h as they come, or A [T, B, G*H], their sum, gate by gate; else T [T, B, S*H], what the cell
// saves.

using std::int64_t;

// What is normalised over the units of a row: nothing; W x and W h, each (or one of them) over all
// gates; or, gate by gate, their sum.
enum class Norm { kNone, kParts, kGates };

// A second product of a step: h' = W_hr m of what the cell gave for h (m, a projection), or the
// last gate's W_hn (r h) of a cell of two products. Neither has a norm or noise beside it.
enum class Second { kNone, kProjection, kLastGate };

struct RowArgs {
  Norm norm;
  Noise noise;
  int64_t padded_gates;     // columns of a row of gates
  const void* norm_ih;      // A [G*H] gain of W x, or nullptr: as it is
  const void* norm_hh;      // A [G*H] gain of W h, or nullptr; or of the gates' sum
  const void* norm_c;       // A [H] gain of c on its way to h, or nullptr: not normalised
  const void* norm_c_bias;  // A [H] or nullptr
  bool carries_norm;        // the normalised c is the next step's c, too
  Second second;
  const void* unit_weights;  // A [V*H] of a row cell, else nullptr
  void* dropped;             // A [B][padded H] factors of h in front of the product, or nullptr
};

struct ForwardArgs : cpu::ForwardArgs {
  RowArgs row;
  void* x_gates;        // A [groups][chunk_frames][padded gates] scratch
  void* x_moments;      // A [groups][chunk_frames][2] scratch
  void* h_gates;        // A [B][padded gates] scratch
  void* carry_dropped;  // A [B][padded H] scratch where h is dropped: what enters the product
  void* new_c;          // A [2][B][padded H] scratch where c is normalised: c and the gate of h
  // Of a second product.
  const void* panels_second;  // of W_hr or of W_hn; panels_hh has the rows before those alone
  const void* bias_second;    // A of the columns of W_hn, or nullptr
  void* operand;              // A [B][padded H] scratch: m, or r h
  void* product;              // A [B][padded P] scratch
};

struct BackwardArgs : cpu::BackwardArgs {
  RowArgs row;
  void* raw_again;  // A [chunk_frames][2][padded gates] scratch where `saved` is nullptr
  void* moments;    // A [chunk_frames][8] scratch
  void* dg_raw;     // A [chunk_frames][G*H] scratch: of W h where it is normalised, else dg_gates
  void* c_rows;     // A [B][S + 3][padded H] scratch where c is normalised
  void* d_norm_ih;  // A [G*H] out, or nullptr
  void* d_norm_hh;  // A [G*H] out, or nullptr
  void* d_units;    // A [groups][V][padded H] zeros, out: of a row cell's vectors
  void* d_norm_c;   // A [groups][2][padded H] zeros, out where c is normalised: gain's, bias's
  // Of a second product; `saved` is there, with m behind what the cell saves.
  const void* plain_second;  // plain panels of W_hr or of W_hn
  void* d_operand;           // A [B][padded H] scratch: the gradient of m, or of r h
  void* d_projected;         // A [chunk_frames][P] scratch of a projection: dh'
  void* plain_operand;       // plain panels of m, or of r h, over the frames of a chunk: scratch
  void* d_weight_hr;         // A [P, H] out, or nullptr
};

struct Kernels {
  // With the layer's columns as units of one gate: sizes of panels, pack_gates and pack_plain.
  cpu::CellKernels packs;
  std::size_t (*forward_scratch)(const ForwardArgs&);
  void (*forward)(const ForwardArgs&, const cpu::Place&);
  std::size_t (*backward_scratch)(const BackwardArgs&);
  void (*backward)(const BackwardArgs&, const cpu::Place&);
};

// nullptr where there is no such cell. `cell` is the place in the lists of recurrent/cells/cells.h.
using FindKernels = const Kernels* (*)(int cell, Storage);
const Kernels* baseline_kernels(int cell, Storage storage);
const Kernels* avx2_kernels(int cell, Storage storage);
const Kernels* avx512_kernels(int cell, Storage storage);
// Those of the instruction set in use (rowwise/cpu/table.cpp).
const Kernels* find_kernels(int cell, Storage storage);

}  // namespace fastcells::rowwise
