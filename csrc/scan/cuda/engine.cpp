#include "scan/cuda/engine.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

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

// Chunks of time and their scratch, which lives as long as this.
class Chunks {
 public:
  explicit Chunks(const ScanProblem& p) {
    // Fewer lanes than this leave most of the card idle; with chunks there are so many threads.
    constexpr int64_t kEnoughLanes = 8192, kThreads = 32768;
    constexpr int64_t kLeastSteps = 64, kMostChunks = 256;
    const auto& s = p.sizes;
    const int64_t lanes = std::max<int64_t>(1, s.B * s.H);
    int64_t count = 1;
    if (lanes < kEnoughLanes) {
      count = std::min({(kThreads + lanes - 1) / lanes, s.T / kLeastSteps, kMostChunks});
    }
    count = std::max<int64_t>(1, count);
    chunks_.steps = std::max<int64_t>(1, (s.T + count - 1) / count);
    chunks_.count = std::max<int64_t>(1, (s.T + chunks_.steps - 1) / chunks_.steps);
    if (chunks_.count == 1) return;
    const auto options = p.b.options();
    numbers_ = at::empty({2, chunks_.count - 1, lanes}, options.dtype(p.arithmetic()));
    reaches_ = at::empty({chunks_.count - 1, lanes}, options.dtype(at::kBool));
    chunks_.states = numbers_.select(0, 0).mutable_data_ptr();
    chunks_.products = numbers_.select(0, 1).mutable_data_ptr();
    chunks_.reaches = reaches_.mutable_data_ptr<bool>();
  }
  const ScanChunks& get() const { return chunks_; }

 private:
  ScanChunks chunks_{};
  at::Tensor numbers_, reaches_;
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
      const bool has_sums = s.T > 1 && p.a.stride(0) == 0 && chunks.get().count == 1;
      if (has_sums) {
        grads.a = at::empty({1, s.B, s.H}, p.b.options().dtype(p.arithmetic()));
        args.d_a_sums = grads.a.mutable_data_ptr();
      } else {
        grads.a = p.empty_result(), args.d_a = result(grads.a);
      }
    }
    if (s.B * s.H == 0) return grads;
    check(launch_scan_backward(p.storage, args, chunks.get(), stream()));
    return grads;
  }
};

}  // namespace

const ScanEngine& scan_engine() {
  static const CudaScan engine;
  return engine;
}

}  // namespace fastcells::cuda
