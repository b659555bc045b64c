// The ops of the scan on every device: check, run the device's engine, sum a factor's gradient over
// what was broadcast.
#include "ops.h"

#include "checks.h"
#include "cpu/team.h"
#include "dense.h"
#include "op_scope.h"
#include "scan/cpu/engine.h"

#ifdef FASTCELLS_WITH_CUDA
#include "scan/cuda/engine.h"
#endif

namespace fastcells {
namespace {

constexpr const char* kScan = "fastcells::linear_scan";
constexpr const char* kBackward = "fastcells::linear_scan_backward";

const ScanEngine& engine_of(const at::Tensor& b) {
#ifdef FASTCELLS_WITH_CUDA
  if (b.is_cuda()) return cuda::scan_engine();
#endif
  TORCH_CHECK_NOT_IMPLEMENTED(b.is_cpu(), "fastcells: no kernels of linear_scan for ", b.device());
  return cpu::scan_engine();
}

}  // namespace

at::Tensor linear_scan(const at::Tensor& a, const at::Tensor& b, const OptionalTensor& h_0,
                       const OptionalTensor& lengths, const OptionalTensor& resets,
                       bool batch_first, bool reverse, bool adjoint) {
  const OpScope scope(b);
  const ScanProblem p = check_scan(kScan, a, b, h_0, lengths, resets, batch_first, reverse);
  if (!adjoint) return p.returned(engine_of(b).forward(p));
  TORCH_CHECK(!p.h_0.defined(), kScan, ": the adjoint scan has no h_0");
  return p.returned(engine_of(b).backward(p, {}, {false, true, false}).b);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_scan_backward(
    const at::Tensor& grad_h, const at::Tensor& a, const at::Tensor& h, const OptionalTensor& h_0,
    const OptionalTensor& lengths, const OptionalTensor& resets, bool batch_first, bool reverse,
    c10::List<bool> needs) {
  const OpScope scope(grad_h);
  const cpu::SerialInForkedChild guard;
  const ScanProblem p =
      check_scan(kBackward, a, grad_h, h_0, lengths, resets, batch_first, reverse);
  TORCH_CHECK(needs.size() == 3, kBackward, ": needs must have 3 values, got ", needs.size());
  const ScanGradients grads =
      engine_of(grad_h).backward(p, check_like_result(p, "h", h), {needs[0], needs[1], needs[2]});
  at::Tensor grad_a;
  if (needs[0]) grad_a = p.returned(grads.a).sum_to_size(a.sizes()).to(a.scalar_type());
  return {or_absent(grad_a, a),
          or_absent(grads.b.defined() ? p.returned(grads.b) : at::Tensor(), a),
          or_absent(grads.h_0, a)};
}

}  // namespace fastcells
