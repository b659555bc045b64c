// Arguments of the fused step kernels: plain data, so that they pass from a .cpp to a .cu.
//
// Letters: T steps, B rows, H hidden units, P width of h (H, or proj_size), C columns of c (H for
// each state beside h), G gates, S values saved, D directions. Types: T storage, M matrix operand,
// A arithmetic (storage.h). All pointers are at one step t and one direction unless a shape says
// otherwise; the engine owns every buffer. Element (b, u) is read and written by one thread alone,
// so `in, out` buffers are updated in place. Strides are in elements, from one row to the next.
#pragma once
#include <cstdint>

#include "rows.h"

namespace fastcells {

enum class Stage {
  kStart,            // carry from h_0 and c_0
  kResetForward,     // two products: the operand of the second one
  kForward,          // the cell
  kProjectForward,   // after W_hr: store h
  kPrevious,         // h_previous [T, B, P] for the way back and for dW_hh
  kProjectBackward,  // before W_hr: gradient of the projected h
  kBackward,         // the cell
  kResetBackward,    // two products: the gates in front of the second one
  kFinish            // gradients of h_0 and c_0
};

struct StepForwardArgs {
  Rows rows;
  std::int64_t t, H, P, C;
  const void* h_0;        // T [B, P] or nullptr: zeros
  const void* c_0;        // T [B, C] or nullptr: zeros
  const void* x_gates;    // A [B, G*H] without bias
  const void* h_gates;    // A [B, G*H] without bias
  const void* bias_ih;    // A [G*H] or nullptr
  const void* bias_hh;    // A [G*H] or nullptr
  void* carry_h;          // M [B, P] in, out: the h that enters the step, then the next one
  void* carry_c;          // A [B, C] in, out; nullptr for a cell without c
  void* operand;          // M [B, H] out: r h (kResetForward), or h before its projection
  const void* projected;  // A [B, P] in (kProjectForward)
  void* output;           // T [B, P] out: 0 where the step does not exist
  void* cells;            // A [B, C] out, or nullptr: not wanted
  void* saved;            // T [B, S*H] out, or nullptr: no way back
  std::int64_t output_stride, cells_stride, saved_stride;
  bool is_projected;  // P != H: kForward leaves h in `operand`, and in saved[S]
};

struct StepBackwardArgs {
  Rows rows;
  std::int64_t t, H, P, C;
  const void* d_output;    // T [B, P] or nullptr: zero
  const void* d_cells;     // A [B, C] or nullptr: zero
  const void* saved;       // T [B, S*H]
  const void* output_all;  // T [T, B, P]: the forward pass's output (kPrevious)
  const void* cells_all;   // A [T, B, C]: the forward pass's cells
  const void* h_0;         // T [B, P] or nullptr
  const void* c_0;         // T [B, C] or nullptr
  void* h_previous;        // M [B, P] at step t; kPrevious: out [T, B, P]; otherwise in
  void* carry_dh;          // A [B, P] in, out: gradient of h after the step, then before it,
  const void* product_dh;  // A [B, P]   short of this product (dg W_hh of the step handled last)
  void* carry_dc;          // A [B, C] in, out; nullptr for a cell without c
  void* dh_projected;      // M [B, P] out (kProjectBackward)
  const void* dh_cell;     // A [B, H] in: gradient of h before its projection; else nullptr
  const void* d_reset_h;   // A [B, H] in (kResetBackward)
  void* reset_h;           // M [B, H] out (kResetBackward): r h, for dW_hh
  void* dx_gates;          // M [B, G*H] out: 0 where the step does not exist
  void* dg_gates;          // M [B, G*H] out; is dx_gates for an additive cell
  void* d_h_0;             // A [B, P] out (kFinish)
  void* d_c_0;             // A [B, C] out (kFinish)
  std::int64_t d_output_stride, d_cells_stride, saved_stride;
  std::int64_t output_all_stride, cells_all_stride;  // row to row; a step is B rows
};

}  // namespace fastcells
