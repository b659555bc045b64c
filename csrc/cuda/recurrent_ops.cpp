// Entry points of the recurrent ops on CUDA: guard the device, take torch's current stream, run.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/launch.h"
#include "recurrent/entry.h"
#include "recurrent/stepwise.h"

namespace fastcells {
namespace {

class CudaStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    int error = 0;
    if (stage == Stage::kStart || stage == Stage::kProjectForward) {
      error = launch_step_forward_any(stage, layer.storage, args, stream());
    } else {
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        error = launch_step_forward<typename decltype(cell)::type>(stage, layer.storage, args,
                                                                   stream());
      });
    }
    C10_CUDA_CHECK(static_cast<cudaError_t>(error));
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    int error = 0;
    if (stage != Stage::kBackward && stage != Stage::kResetBackward) {
      error = launch_step_backward_any(stage, layer.storage, args, stream());
    } else {
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        error = launch_step_backward<typename decltype(cell)::type>(stage, layer.storage, args,
                                                                    stream());
      });
    }
    C10_CUDA_CHECK(static_cast<cudaError_t>(error));
  }
  at::ScalarType operand(const Layer& layer) const override { return layer.input.scalar_type(); }

 private:
  static void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
};

const Engine& cuda_engine() {
  static const CudaStepKernels kernels;
  static const StepwiseEngine engine(kernels);
  return engine;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> recurrent_forward_cuda(
    std::string_view cell, int64_t directions, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, std::string_view keep) {
  const c10::cuda::CUDAGuard guard(input.device());
  return run_forward({cell, directions, input, h_0, c_0, weights, lengths, resets}, keep,
                     cuda_engine());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> recurrent_backward_cuda(
    std::string_view cell, int64_t directions, const OptionalTensor& grad_output,
    const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
    const OptionalTensor& grad_cells, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, const at::Tensor& output, const at::Tensor& cells,
    const at::Tensor& saved, c10::List<bool> needs) {
  const c10::cuda::CUDAGuard guard(input.device());
  return run_backward({cell, directions, input, h_0, c_0, weights, lengths, resets},
                      {grad_output.value_or(at::Tensor()), grad_h_n.value_or(at::Tensor()),
                       grad_c_n.value_or(at::Tensor()), grad_cells.value_or(at::Tensor())},
                      {output, {}, {}, cells, saved}, needs, cuda_engine());
}

std::tuple<at::Tensor, at::Tensor> recurrent_step_cuda(std::string_view cell,
                                                       const at::Tensor& input,
                                                       const OptionalTensor& h,
                                                       const OptionalTensor& c,
                                                       at::TensorList weights) {
  const c10::cuda::CUDAGuard guard(input.device());
  return run_step(cell, input, h, c, weights, cuda_engine());
}

}  // namespace fastcells
