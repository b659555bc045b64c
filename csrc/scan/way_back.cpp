#include "scan/way_back.h"

#include <torch/csrc/autograd/custom_function.h>

#include "eager.h"

namespace fastcells {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the way back reads.
enum Saved { kA, kH, kH0, kLengths, kResets };
constexpr const char *kBatchFirst = "batch_first", *kReverse = "reverse";

struct ScanFunction : torch::autograd::Function<ScanFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& a, const at::Tensor& b,
                            const OptionalTensor& h_0, const OptionalTensor& lengths,
                            const OptionalTensor& resets, bool batch_first, bool reverse,
                            bool keeps_h) {
    const at::Tensor h =
        linear_scan(a, b, h_0, lengths, resets, batch_first, reverse, /*adjoint=*/false);
    context->save_for_backward({a, keeps_h ? h : at::Tensor(), h_0.value_or(at::Tensor()),
                                lengths.value_or(at::Tensor()), resets.value_or(at::Tensor())});
    context->saved_data[kBatchFirst] = batch_first, context->saved_data[kReverse] = reverse;
    context->set_materialize_grads(false);
    return h;
  }

  static variable_list backward(AutogradContext* context, const variable_list& given) {
    variable_list results(8);  // of all that forward takes
    if (!given[0].defined()) return results;
    const variable_list saved = context->get_saved_variables();
    // Edges lead to the tensors that were there, in their order.
    c10::List<bool> needs;
    needs.push_back(context->needs_input_grad(0)), needs.push_back(context->needs_input_grad(1));
    needs.push_back(saved[kH0].defined() && context->needs_input_grad(2));
    const bool batch_first = context->saved_data.at(kBatchFirst).toBool();
    const bool reverse = context->saved_data.at(kReverse).toBool();
    variable_list found;
    if (may_run_kernels(given)) {
      auto [a, b, h_0] = linear_scan_backward(
          given[0], saved[kA], saved[kH].defined() ? saved[kH] : given[0], optional(saved[kH0]),
          optional(saved[kLengths]), optional(saved[kResets]), batch_first, reverse, needs);
      found = {a, b, h_0};
    } else {
      found = gradients_by_python(
          "scan_autograd", "gradients_of_node",
          {batch_first, reverse, needs, c10::IValue(given), c10::IValue(saved)});
    }
    for (size_t i = 0; i < 3; ++i) {
      if (needs[i]) results[i] = found[i];
    }
    return results;
  }
};

}  // namespace

at::Tensor recorded_scan(const at::Tensor& a, const at::Tensor& b, const OptionalTensor& h_0,
                         const OptionalTensor& lengths, const OptionalTensor& resets,
                         bool batch_first, bool reverse) {
  return ScanFunction::apply(a, b, h_0, lengths, resets, batch_first, reverse, a.requires_grad());
}

}  // namespace fastcells
