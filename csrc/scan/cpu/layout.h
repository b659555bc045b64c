// A scan's tensors as the CPU kernels want them, and the arguments made of them.
#pragma once
#include <vector>

#include "scan/cpu/kernels/args.h"
#include "scan/problem.h"

namespace fastcells::cpu {

// Everything in parts of numbers (scan/cpu/kernels/args.h). A batch whose rows lie one behind the
// other is one row of B*H units: longer pieces of memory, and whole vectors where H is small. With
// lengths or resets rows then lie side by side, which pays where a row has less than a vector.
class ScanLayout {
 public:
  ScanLayout(const ScanProblem& problem, int64_t vector_lanes);
  // Tensors of [T, B, H] that the call reads or writes, before `merge`. What is read may be copied:
  // units must lie side by side, or be one; a factor that is the same at all steps is [B, H].
  ScanOperand operand(const at::Tensor& x);
  ScanResult result(const at::Tensor& x);
  // After all of them: rows become one where all allow it.
  void merge(ScanArgs& args);

 private:
  const ScanProblem& problem_;
  std::int64_t parts_;
  bool is_masked_;  // by lengths or resets
  bool can_merge_;
  std::vector<int64_t> by_length_;
  std::vector<at::Tensor> kept_;  // copies, as long as this lives
};

}  // namespace fastcells::cpu
