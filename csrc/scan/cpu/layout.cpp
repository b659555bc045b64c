#include "scan/cpu/layout.h"

#include <algorithm>
#include <numeric>

namespace fastcells::cpu {
namespace {

// Rows that are worth laying side by side: fewer are shared by threads, or cut in time.
constexpr int64_t kLeastRows = 4;

}  // namespace

ScanLayout::ScanLayout(const ScanProblem& problem, int64_t vector_lanes)
    : problem_(problem),
      parts_(problem.storage.is_complex ? 2 : 1),
      is_masked_(problem.lengths.defined() || problem.resets.defined()),
      can_merge_(!is_masked_ || (!problem.is_batch_first && problem.sizes.B >= kLeastRows &&
                                 problem.sizes.H * parts_ < vector_lanes)) {}

ScanOperand ScanLayout::operand(const at::Tensor& x) {
  const auto& s = problem_.sizes;
  at::Tensor t = x;
  const bool is_constant = s.T > 1 && t.stride(0) == 0;
  const auto unit_of = [&] { return s.H == 1 ? 1 : t.stride(2); };
  const auto is_one_row = [&] {
    return s.B == 1 || t.stride(1) == s.H * unit_of() || (t.stride(1) == 0 && unit_of() == 0);
  };
  if (is_constant && !(is_one_row() && unit_of() == 1)) {
    t = t.select(0, 0).contiguous().unsqueeze(0).expand({s.T, s.B, s.H});
    kept_.push_back(t);
  } else if (unit_of() != 0 && unit_of() != 1) {
    t = t.contiguous();
    kept_.push_back(t);
  }
  if (is_masked_ && can_merge_ && !is_one_row()) {
    t = t.contiguous();
    kept_.push_back(t);
  }
  can_merge_ &= is_one_row();
  return {t.const_data_ptr(), t.stride(0) * parts_, t.stride(1) * parts_, unit_of()};
}

ScanResult ScanLayout::result(const at::Tensor& x) {
  if (!x.defined()) return {};
  const auto& s = problem_.sizes;
  can_merge_ &= s.B == 1 || x.stride(1) == s.H;
  return {x.mutable_data_ptr(), x.stride(0) * parts_, x.stride(1) * parts_};
}

void ScanLayout::merge(ScanArgs& args) {
  const auto& s = problem_.sizes;
  args.T = s.T, args.B = s.B, args.H = args.units = s.H * parts_;
  args.rows = problem_.rows();
  if (!can_merge_ || s.B == 1) return;
  args.H *= args.B, args.B = 1;
  if (!is_masked_) {
    args.units = args.H, args.rows.B = 1;
  } else if (args.rows.lengths) {
    by_length_.resize(s.B);
    std::iota(by_length_.begin(), by_length_.end(), 0);
    std::stable_sort(by_length_.begin(), by_length_.end(), [&](int64_t x, int64_t y) {
      return args.rows.lengths[x] < args.rows.lengths[y];
    });
    args.by_length = by_length_.data();
  }
}

}  // namespace fastcells::cpu
