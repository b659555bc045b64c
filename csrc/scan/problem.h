// One scan, checked: what the ops begin with on every device.
#pragma once
#include "ops.h"
#include "scan/args.h"

namespace fastcells {

struct ScanSizes {
  int64_t T, B, H;
};

// Every tensor is seen as [T, B, H], whatever lies first in memory; those that are absent are
// undefined. A dimension of a factor that is broadcast has stride 0.
struct ScanProblem {
  const char* op;
  ScanSizes sizes;
  ScanStorage storage;
  bool is_batch_first = false, is_reverse = false;
  at::Tensor a;        // [T, B, H], expanded
  at::Tensor b;        // [T, B, H], or the gradient of h; may be expanded
  at::Tensor h_0;      // [B, H] contiguous
  at::Tensor lengths;  // [B] contiguous
  at::Tensor resets;   // [T, B] contiguous

  at::ScalarType arithmetic() const;
  // A new tensor in the caller's layout, seen as [T, B, H].
  at::Tensor empty_result() const;
  // A result in the caller's layout.
  at::Tensor returned(const at::Tensor& result) const;
  // In the direction of the scan, or against it.
  Rows rows(bool is_against = false) const;
};

ScanProblem check_scan(const char* op, const at::Tensor& a, const at::Tensor& b,
                       const OptionalTensor& h_0, const OptionalTensor& lengths,
                       const OptionalTensor& resets, bool batch_first, bool reverse);
// As the problem's results: [T, B, H] in the caller's layout.
at::Tensor check_like_result(const ScanProblem& problem, const char* name, const at::Tensor& x);

}  // namespace fastcells
