// Entry points of the recurrent ops on the CPU.
#include "recurrent/cpu/engine.h"
#include "recurrent/entry.h"

namespace fastcells {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> recurrent_forward_cpu(
    std::string_view cell, int64_t directions, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, std::string_view keep) {
  return run_forward({cell, directions, input, h_0, c_0, weights, lengths, resets}, keep,
                     cpu::engine());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> recurrent_backward_cpu(
    std::string_view cell, int64_t directions, const OptionalTensor& grad_output,
    const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
    const OptionalTensor& grad_cells, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, const at::Tensor& output, const at::Tensor& cells,
    const at::Tensor& saved, c10::List<bool> needs) {
  return run_backward({cell, directions, input, h_0, c_0, weights, lengths, resets},
                      {grad_output.value_or(at::Tensor()), grad_h_n.value_or(at::Tensor()),
                       grad_c_n.value_or(at::Tensor()), grad_cells.value_or(at::Tensor())},
                      {output, {}, {}, cells, saved}, needs, cpu::engine());
}

std::tuple<at::Tensor, at::Tensor> recurrent_step_cpu(std::string_view cell,
                                                      const at::Tensor& input,
                                                      const OptionalTensor& h,
                                                      const OptionalTensor& c,
                                                      at::TensorList weights) {
  return run_step(cell, input, h, c, weights, cpu::engine());
}

}  // namespace fastcells
