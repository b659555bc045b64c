#include "scan/problem.h"

#include <ATen/ops/empty.h>

#include "checks.h"

namespace fastcells {
namespace {

ScanStorage scan_storage(const char* op, const at::Tensor& x) {
  const at::ScalarType dtype = x.scalar_type();
  if (dtype == at::kComplexFloat) return {Storage::kFloat32, true};
  if (dtype == at::kComplexDouble) return {Storage::kFloat64, true};
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      op, ": dtype ", c10::toString(dtype),
      " is not supported (float32, float64, float16, bfloat16, complex64, "
      "complex128)");
  return {storage_of(op, dtype), false};
}

at::Tensor time_major(const ScanProblem& p, const at::Tensor& x) {
  return p.is_batch_first ? x.transpose(0, 1) : x;
}

void check_like_b(const ScanProblem& p, const char* name, const at::Tensor& x) {
  check_dtype(p.op, name, x, p.b.scalar_type());
  check_device(p.op, name, x, p.b.device(), "b");
}

}  // namespace

at::ScalarType ScanProblem::arithmetic() const {
  const at::ScalarType dtype = b.scalar_type();
  return dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
}

at::Tensor ScanProblem::empty_result() const {
  const auto& s = sizes;
  if (is_batch_first) return at::empty({s.B, s.T, s.H}, b.options()).transpose(0, 1);
  return at::empty({s.T, s.B, s.H}, b.options());
}

at::Tensor ScanProblem::returned(const at::Tensor& result) const {
  return time_major(*this, result);
}

Rows ScanProblem::rows(bool is_against) const {
  return {lengths.defined() ? lengths.const_data_ptr<int64_t>() : nullptr,
          resets.defined() ? resets.const_data_ptr<bool>() : nullptr, sizes.T, sizes.B,
          is_reverse != is_against};
}

at::Tensor check_like_result(const ScanProblem& p, const char* name, const at::Tensor& x) {
  const auto& s = p.sizes;
  check_shape(p.op, name, p.is_batch_first ? "(B, T, H)" : "(T, B, H)", x,
              p.is_batch_first ? at::IntArrayRef{s.B, s.T, s.H} : at::IntArrayRef{s.T, s.B, s.H});
  check_like_b(p, name, x);
  return time_major(p, x);
}

ScanProblem check_scan(const char* op, const at::Tensor& a, const at::Tensor& b,
                       const OptionalTensor& h_0, const OptionalTensor& lengths,
                       const OptionalTensor& resets, bool batch_first, bool reverse) {
  ScanProblem p{};
  p.op = op, p.is_batch_first = batch_first, p.is_reverse = reverse;
  const char* const letters = batch_first ? "(B, T, H)" : "(T, B, H)";
  TORCH_CHECK(b.dim() == 3, op, ": b must have shape ", letters, ", got ", shape_text(b.sizes()));
  p.storage = scan_storage(op, b);
  p.b = time_major(p, b);
  p.sizes = {p.b.size(0), p.b.size(1), p.b.size(2)};
  const auto& s = p.sizes;
  check_like_b(p, "a", a);
  bool fits = a.dim() == 3;
  for (int64_t d = 0; fits && d < 3; ++d) fits = a.size(d) == 1 || a.size(d) == b.size(d);
  TORCH_CHECK(fits, op, ": a must have shape ", batch_first ? "(1|B, 1|T, 1|H)" : "(1|T, 1|B, 1|H)",
              " with ", letters, " = ", shape_text(b.sizes()), ", got ", shape_text(a.sizes()));
  p.a = time_major(p, a).expand({s.T, s.B, s.H});
  if (h_0 && h_0->defined()) {
    check_shape(op, "h_0", "(B, H)", *h_0, {s.B, s.H});
    check_like_b(p, "h_0", *h_0);
    p.h_0 = h_0->contiguous();
  }
  if (lengths && lengths->defined()) {
    check_shape(op, "lengths", "(B,)", *lengths, {s.B});
    check_dtype(op, "lengths", *lengths, at::kLong);
    check_device(op, "lengths", *lengths, b.device(), "b");
    p.lengths = lengths->contiguous();
    check_lengths_in_range(op, "lengths", p.lengths, s.T, "T");
  }
  if (resets && resets->defined()) {
    check_shape(op, "resets", batch_first ? "(B, T)" : "(T, B)", *resets,
                batch_first ? at::IntArrayRef{s.B, s.T} : at::IntArrayRef{s.T, s.B});
    check_dtype(op, "resets", *resets, at::kBool);
    check_device(op, "resets", *resets, b.device(), "b");
    p.resets = time_major(p, *resets).contiguous();
  }
  return p;
}

}  // namespace fastcells
