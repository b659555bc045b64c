#include "scan/cuda/engine.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "scan/cuda/launch.h"

namespace fastcells::cuda {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
void check(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

ScanOperand operand(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}
ScanResult result(const at::Tensor& x) {
  return x.defined() ? ScanResult{x.mutable_data_ptr(), x.stride(0), x.stride(1)} : ScanResult{};
}
void set_arguments(const ScanProblem& p, ScanArgs& args) {
  args.T = p.sizes.T, args.B = p.sizes.B, args.H = p.sizes.H;
  args.rows = p.rows(), args.a = operand(p.a);
}

int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Chunks of time and their scratch, which lives as long as this.
class Chunks {
 public:
  explicit Chunks(const ScanProblem& p) {
    const int64_t lanes = p.sizes.B * p.sizes.H;
    chunks_.plan = plan_scan(p.sizes.T, lanes, multiprocessors());
    const int64_t before = chunks_.plan.chunks - 1;
    if (before == 0) return;
    numbers_ = at::empty({2, before, lanes}, p.b.options().dtype(p.arithmetic()));
    flags_ = at::empty({before + 1, lanes}, p.b.options().dtype(at::kBool));
    chunks_.states = numbers_.select(0, 0).mutable_data_ptr();
    chunks_.products = numbers_.select(0, 1).mutable_data_ptr();
    chunks_.reaches = flags_.mutable_data_ptr<bool>();
    chunks_.is_whole = chunks_.reaches + before * lanes;
  }
  const ScanChunks& get() const { return chunks_; }
  int64_t count() const { return chunks_.plan.chunks; }

 private:
  ScanChunks chunks_{};
  at::Tensor numbers_, flags_;
};

class CudaScan final : public ScanEngine {
 public:
  at::Tensor forward(const ScanProblem& p) const override {
    const at::Tensor h = p.empty_result();
    if (h.numel() == 0) return h;
    ScanForwardArgs args{};
    set_arguments(p, args);
    args.b = operand(p.b), args.h = result(h);
    args.h_0 = p.h_0.defined() ? p.h_0.const_data_ptr() : nullptr;
    const Chunks chunks(p);
    check(launch_scan_forward(p.storage, args, chunks.get(), stream()));
    return h;
  }

  ScanGradients backward(const ScanProblem& p, const at::Tensor& h,
                         const ScanNeeds& needs) const override {
    const auto& s = p.sizes;
    const Chunks chunks(p);
    ScanGradients grads;
    ScanBackwardArgs args{};
    set_arguments(p, args);
    args.grad_h = operand(p.b);
    args.h_0 = p.h_0.defined() ? p.h_0.const_data_ptr() : nullptr;
    if (needs.b) grads.b = p.empty_result(), args.d_b = result(grads.b);
    if (needs.h_0) {
      grads.h_0 = at::empty({s.B, s.H}, p.b.options());
      args.d_h_0 = grads.h_0.mutable_data_ptr();
    }
    if (needs.a) {
      args.h = operand(h);
      const bool has_sums = s.T > 1 && p.a.stride(0) == 0;
      if (has_sums) {
        grads.a = at::empty({chunks.count(), s.B, s.H}, p.b.options().dtype(p.arithmetic()));
        args.d_a_sums = grads.a.mutable_data_ptr();
      } else {
        grads.a = p.empty_result(), args.d_a = result(grads.a);
      }
    }
    if (s.B * s.H == 0) return grads;
    check(launch_scan_backward(p.storage, args, chunks.get(), stream()));
    if (args.d_a_sums && chunks.count() > 1) grads.a = grads.a.sum(0, /*keepdim=*/true);
    return grads;
  }
};

}  // namespace

const ScanEngine& scan_engine() {
  static const CudaScan engine;
  return engine;
}

}  // namespace fastcells::cuda
