// What computes a scan: the engines' common form, one a device.
#pragma once
#include "scan/problem.h"

namespace fastcells {

struct ScanNeeds {
  bool a, b, h_0;
};
// [T, B, H] as the problem has it, or [1, B, H] where the factor is the same at all steps; [B, H].
struct ScanGradients {
  at::Tensor a, b, h_0;  // undefined where not needed
};

class ScanEngine {
 public:
  virtual ~ScanEngine() = default;
  virtual at::Tensor forward(const ScanProblem& problem) const = 0;
  // The problem's b is the gradient of h; h [T, B, H] is read for the gradient of a alone. Of the
  // adjoint scan: b's gradient.
  virtual ScanGradients backward(const ScanProblem& problem, const at::Tensor& h,
                                 const ScanNeeds& needs) const = 0;
};

}  // namespace fastcells
