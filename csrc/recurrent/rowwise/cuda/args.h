// Arguments of the CUDA kernels of layers that look at whole rows: plain data. Torch-free.
//
// Letters as in docs/notation.md; T is storage and the operands of products, A arithmetic. Pointers
// are of one direction and of all its steps where a T stands in the shape; the engine owns every
// buffer. Strides are in elements, from one row to the next. An element is written by one thread
// alone, so that `in, out` buffers are updated in place.
//
// `saved` holds what the CPU's engine keeps: of a normalised layer W x and W h as they come,
// A [T, B, 2*G*H], or with norm_gates their sum, A [T, B, G*H]; else what the cell saves,
// T [T, B, S*H].
#pragma once
#include <cstdint>

#include "recurrent/rowwise/noise.h"
#include "rows.h"

namespace fastcells {

struct RowStepArgs {
  Rows rows;
  std::int64_t t, H, C;      // C: columns of c, H for each state beside h
  const void* h_0;           // T [B, H] or nullptr: zeros
  const void* c_0;           // T [B, C] or nullptr: zeros
  const void* bias_ih;       // T [G*H] or nullptr
  const void* bias_hh;       // T [G*H] or nullptr
  const void* norm_ih;       // T [G*H] gain of W x, together with norm_hh, or nullptr
  const void* norm_hh;       // T [G*H] gain of W h
  const void* norm_gates;    // T [G*H] gain of their sum, gate by gate, or nullptr
  const void* norm_c;        // T [H] gain of c on its way to h, or nullptr: not normalised
  const void* norm_c_bias;   // T [H] or nullptr
  const void* unit_weights;  // T [V*H] of a row cell, else nullptr
  bool carries_norm;         // the normalised c is the next step's c, too
  Noise noise;
  std::int64_t output_stride, cells_stride, saved_stride;
};

struct RowForwardArgs : RowStepArgs {
  const void* x_gates;  // A [T, B, G*H] without bias
  const void* h_gates;  // A [B, G*H] of this step, without bias
  void* carry_h;        // T [B, H] in, out: the h that enters the step, then the next one
  void* carry_c;        // A [B, C] in, out; nullptr for a cell without c
  void* dropped_h;      // T [B, H] out: h as the product takes it, or nullptr: as it is
  void* new_c;          // A [B, 2, H] scratch where c is normalised: c and the gate of h
  void* output;         // T [T, B, H] out: 0 where a step does not exist
  void* cells;          // A [T, B, C] out, or nullptr: not wanted
  void* saved;          // out, or nullptr: no way back
};

struct RowBackwardArgs : RowStepArgs {
  const void* output;  // T [T, B, H]: the forward pass's
  const void* cells;   // A [T, B, C] or nullptr: a cell without c
  const void* saved;
  const void* d_output;    // T [T, B, H] or nullptr: zero
  const void* d_cells;     // A [T, B, C] or nullptr: zero
  void* carry_dh;          // A [B, H] in, out: gradient of h after the step, then before it,
  const void* product_dh;  // A [B, H]   short of this product (dg W_hh of the step handled last)
  void* carry_dc;          // A [B, C] in, out; nullptr for a cell without c
  void* gate_rows;         // A [B, 2, G*H] scratch: gradients of the gates as the cell takes them
  void* c_rows;            // A [B, 3, H] scratch where c is normalised
  // Operands of the products: of W x and W h, and the h that entered; 0 where a step does not
  // exist.
  void* dx_gates;    // T [T, B, G*H] out
  void* dg_gates;    // T [T, B, G*H] out, or nullptr: the same
  void* h_previous;  // T [T, B, H] out
  // Sums over the steps of each row, in, out; nullptr where nobody wants them.
  void* d_bias_ih;  // A [B, G*H]
  void* d_bias_hh;  // A [B, G*H]
  void* d_norm_ih;  // A [B, G*H]
  void* d_norm_hh;  // A [B, G*H], also of norm_gates
  void* d_norm_c;   // A [B, 2, H] where c is normalised: gain's, bias's
  void* d_units;    // A [B, V, H]
  // At the end.
  void* d_h_0;  // A [B, H] out
  void* d_c_0;  // A [B, C] out, or nullptr
};

}  // namespace fastcells
