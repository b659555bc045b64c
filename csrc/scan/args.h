// One scan in plain data: what the kernels of every device read and write. Torch-free.
//
//   h_t = a_t h_p(t) + b_t        p(t) is the step processed before t, h_p of the first step h_0
//
// and the adjoint scan, the way back of one, which has no h_0:
//
//   g_t = grad_t + conj(a_n(t)) g_n(t)      n(t) is the step that the scan processed after t
//
// It is a scan in the other direction whose factor is that of the step before. Letters: T steps,
// B batch rows, H units; T as a type is storage, A the arithmetic (float, double for float64, and
// pairs of them for complex numbers).
#pragma once
#include <cstdint>

#include "rows.h"
#include "storage.h"

namespace fastcells {

// What a scan's numbers are stored in: of a complex number each part is.
struct ScanStorage {
  Storage part;
  bool is_complex;
};

// [T, B, H] in memory: element (t, b, u) is data[t*step + b*row + u*unit]. A dimension that is
// broadcast has stride 0.
struct ScanOperand {
  const void* data;
  std::int64_t step, row, unit;
};
struct ScanResult {
  void* data;
  std::int64_t step, row;  // its units lie side by side
};

struct ScanArgs {
  std::int64_t T, B, H;
  Rows rows;      // of the scan forward; lengths, resets may be nullptr
  ScanOperand a;  // T
  // Of the CPU alone. With units < H rows.B rows of so many units lie side by side as the one of B;
  // `by_length` are then their numbers from the shortest to the longest, or nullptr without
  // lengths.
  std::int64_t units;
  const std::int64_t* by_length;
};

struct ScanForwardArgs : ScanArgs {
  ScanOperand b;    // T
  const void* h_0;  // T [B, H], or nullptr: zero
  ScanResult h;     // T out; 0 past a row's end
};

// The gradients of h_t = a_t h_p(t) + b_t: g_t is that of b_t, g_t conj(h_p(t)) that of a_t, and
// conj(a) g of the first step that of h_0. Each result may be absent (nullptr): it is not computed.
struct ScanBackwardArgs : ScanArgs {
  ScanOperand grad_h;  // T
  ScanOperand h;       // T: the scan's; not read without d_a and d_a_sums
  const void* h_0;     // T [B, H], or nullptr: zero
  ScanResult d_b;      // T out
  ScanResult d_a;      // T out
  void* d_a_sums;  // A [B, H] out: d_a summed over T, for a factor that is the same at all steps
  void* d_h_0;     // T [B, H] out
};

}  // namespace fastcells
