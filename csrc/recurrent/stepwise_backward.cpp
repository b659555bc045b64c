#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "recurrent/stepwise.h"

namespace fastcells {
namespace {

// One direction of a layer on its way back through time.
class BackwardPass {
 public:
  BackwardPass(const Layer& layer, int64_t direction, const LayerOutputs& outputs,
               const LayerGradients& grads, const StepKernels& kernels)
      : layer_(layer),
        s_(layer.sizes),
        d_(direction),
        outputs_(outputs),
        grads_(grads),
        kernels_(kernels),
        weights_(layer.weights[direction]),
        operand_type_(kernels.operand(layer)) {
    const auto arithmetic = layer.input.options().dtype(layer.arithmetic());
    const auto operand = layer.input.options().dtype(operand_type_);
    const int64_t rows = s_.T * s_.B;
    weight_hh_ = weights_.weight_hh.to(operand_type_);
    h_previous_ = at::empty({rows, s_.P}, operand);
    dx_gates_ = at::empty({rows, s_.G * s_.H}, operand);
    dg_gates_ = layer.cell.additive ? dx_gates_ : at::empty({rows, s_.G * s_.H}, operand);
    carry_dh_ = initial_carry(grads.h_n, s_.P, arithmetic);
    product_dh_ = at::empty({s_.B, s_.P}, arithmetic);
    if (layer.cell.states == 2) carry_dc_ = initial_carry(grads.c_n, s_.H, arithmetic);
    if (layer.cell.two_products) {
      d_reset_h_ = at::empty({s_.B, s_.H}, arithmetic);
      reset_h_ = at::empty({rows, s_.H}, operand);
    }
    if (layer.is_projected()) {
      weight_hr_ = weights_.weight_hr.to(operand_type_);
      dh_projected_ = at::empty({rows, s_.P}, operand);
      dh_cell_ = at::empty({s_.B, s_.H}, arithmetic);
    }
  }

  // Fills the gradients of the gates at all steps and those of the initial states.
  void run() {
    StepBackwardArgs args = fixed_arguments();
    args.h_previous = pointer(h_previous_);
    kernels_.backward(Stage::kPrevious, layer_, args);
    for (int64_t i = 0; i < s_.T; ++i) {
      const int64_t t = args.rows.reverse ? i : s_.T - 1 - i;
      set_step(args, t);
      step(args, t);
      args.product_dh = pointer(product_dh_);
    }
    d_h_0_ = at::empty_like(carry_dh_);
    args.d_h_0 = pointer(d_h_0_);
    if (carry_dc_.defined()) d_c_0_ = at::empty_like(carry_dc_);
    args.d_c_0 = pointer(d_c_0_);
    kernels_.backward(Stage::kFinish, layer_, args);
  }

  const at::Tensor& d_h_0() const { return d_h_0_; }  // [B, P] arithmetic
  const at::Tensor& d_c_0() const { return d_c_0_; }  // [B, H] arithmetic or undefined
  // [T*B, I] arithmetic
  at::Tensor d_input() const {
    return product(dx_gates_, weights_.weight_ih.to(operand_type_), layer_.arithmetic());
  }
  // Gradient of this direction's weight number `index` in the op's list, in storage.
  at::Tensor d_weight(size_t index, size_t count, const at::Tensor& x) const {
    const at::ScalarType storage = layer_.input.scalar_type();
    const bool is_projection = layer_.is_projected() && index == count - 1;
    if (is_projection) return product(dh_projected_.t(), h_of_cell(), result_type()).to(storage);
    if (index == 0) return product(dx_gates_.t(), x, result_type()).to(storage);
    if (index == 1) return d_weight_hh().to(storage);
    const at::Tensor& gates = index == 2 ? dx_gates_ : dg_gates_;
    return gates.sum(0, /*keepdim=*/false, layer_.arithmetic()).to(storage);
  }

 private:
  at::Tensor initial_carry(const at::Tensor& grad, int64_t width,
                           const at::TensorOptions& arithmetic) const {
    if (!grad.defined()) return at::zeros({s_.B, width}, arithmetic);
    return grad.select(0, d_).to(arithmetic.dtype(), false, /*copy=*/true).contiguous();
  }
  // Products over all steps write the operands' own type: float32 on a CPU, storage on a GPU,
  // where the accumulation is float32 all the same.
  at::ScalarType result_type() const { return operand_type_; }

  at::Tensor d_weight_hh() const {
    if (!layer_.cell.two_products) return product(dg_gates_.t(), h_previous_, result_type());
    at::Tensor result = at::empty(weight_hh_.sizes(), dg_gates_.options());
    const int64_t first = (s_.G - 1) * s_.H;
    product_out(result.narrow(0, 0, first), dg_gates_.narrow(1, 0, first).t(), h_previous_);
    product_out(result.narrow(0, first, s_.H), dg_gates_.narrow(1, first, s_.H).t(), reset_h_);
    return result;
  }

  // [T*B, H]: h before its projection, which the forward pass saved behind the gates.
  at::Tensor h_of_cell() const {
    return outputs_.saved.select(0, d_)
        .view({s_.T * s_.B, s_.saved * s_.H})
        .narrow(1, (s_.saved - 1) * s_.H, s_.H)
        .to(operand_type_);
  }

  StepBackwardArgs fixed_arguments() const {
    StepBackwardArgs args{};
    args.rows = layer_.rows(d_);
    args.H = s_.H, args.P = s_.P;
    args.d_output_stride = s_.D * s_.P, args.d_cells_stride = s_.D * s_.H;
    args.saved_stride = s_.saved * s_.H;
    args.output_all = pointer(outputs_.output, d_ * s_.P);
    args.cells_all = pointer(outputs_.cells, d_ * s_.H);
    args.output_all_stride = s_.D * s_.P, args.cells_all_stride = s_.D * s_.H;
    args.h_0 = pointer(layer_.h_0, d_ * s_.B * s_.P);
    args.c_0 = pointer(layer_.c_0, d_ * s_.B * s_.H);
    args.carry_dh = pointer(carry_dh_), args.carry_dc = pointer(carry_dc_);
    args.dh_cell = pointer(dh_cell_), args.d_reset_h = pointer(d_reset_h_);
    return args;
  }

  void set_step(StepBackwardArgs& args, int64_t t) const {
    const int64_t row = t * s_.B;
    args.t = t;
    args.d_output = pointer(grads_.output, row * args.d_output_stride + d_ * s_.P);
    args.d_cells = pointer(grads_.cells, row * args.d_cells_stride + d_ * s_.H);
    args.saved = pointer(outputs_.saved, (d_ * s_.T + t) * s_.B * args.saved_stride);
    args.h_previous = pointer(h_previous_, row * s_.P);
    args.dx_gates = pointer(dx_gates_, row * s_.G * s_.H);
    args.dg_gates = pointer(dg_gates_, row * s_.G * s_.H);
    args.dh_projected = pointer(dh_projected_, row * s_.P);
    args.reset_h = pointer(reset_h_, row * s_.H);
  }

  void step(const StepBackwardArgs& args, int64_t t) {
    const auto at_step = [&](const at::Tensor& all) { return all.narrow(0, t * s_.B, s_.B); };
    if (layer_.is_projected()) {
      kernels_.backward(Stage::kProjectBackward, layer_, args);
      product_out(dh_cell_, at_step(dh_projected_), weight_hr_);
    }
    kernels_.backward(Stage::kBackward, layer_, args);
    const at::Tensor dg = at_step(dg_gates_);
    if (layer_.cell.two_products) {
      const int64_t first = (s_.G - 1) * s_.H;
      product_out(d_reset_h_, dg.narrow(1, first, s_.H), weight_hh_.narrow(0, first, s_.H));
      kernels_.backward(Stage::kResetBackward, layer_, args);
      product_out(product_dh_, dg.narrow(1, 0, first), weight_hh_.narrow(0, 0, first));
    } else {
      product_out(product_dh_, dg, weight_hh_);
    }
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const int64_t d_;
  const LayerOutputs& outputs_;
  const LayerGradients& grads_;
  const StepKernels& kernels_;
  const DirectionWeights& weights_;
  const at::ScalarType operand_type_;
  at::Tensor weight_hh_, weight_hr_;   // operands [G*H, P], [P, H]
  at::Tensor h_previous_;              // operand [T*B, P]
  at::Tensor dx_gates_, dg_gates_;     // operand [T*B, G*H]; one tensor for an additive cell
  at::Tensor carry_dh_, product_dh_;   // arithmetic [B, P]
  at::Tensor carry_dc_;                // arithmetic [B, H] or undefined
  at::Tensor d_reset_h_, reset_h_;     // arithmetic [B, H], operand [T*B, H]: two products
  at::Tensor dh_projected_, dh_cell_;  // operand [T*B, P], arithmetic [B, H]: projection
  at::Tensor d_h_0_, d_c_0_;
};

}  // namespace

InputGradients stepwise_backward(const Layer& layer, const LayerOutputs& outputs,
                                 const LayerGradients& grads, const LayerNeeds& needs,
                                 const StepKernels& kernels) {
  const auto& s = layer.sizes;
  const auto storage = layer.input.options();
  const size_t count = needs.weights.size() / s.D;
  InputGradients result;
  if (needs.h_0) result.h_0 = at::empty({s.D, s.B, s.P}, storage);
  if (needs.c_0) result.c_0 = at::empty({s.D, s.B, s.H}, storage);
  const at::Tensor x = operand_rows(layer, kernels.operand(layer));
  at::Tensor d_input;  // arithmetic [T*B, I]
  for (int64_t d = 0; d < s.D; ++d) {
    BackwardPass pass(layer, d, outputs, grads, kernels);
    pass.run();
    if (needs.h_0) result.h_0.select(0, d).copy_(pass.d_h_0());
    if (needs.c_0) result.c_0.select(0, d).copy_(pass.d_c_0());
    if (needs.input) d_input = d_input.defined() ? d_input.add_(pass.d_input()) : pass.d_input();
    for (size_t k = 0; k < count; ++k) {
      result.weights.push_back(needs.weights[d * count + k] ? pass.d_weight(k, count, x)
                                                            : at::Tensor());
    }
  }
  if (needs.input) {
    result.input = d_input.view({s.T, s.B, s.I}).to(storage.dtype());
  }
  return result;
}

InputGradients StepwiseEngine::backward(const Layer& layer, const LayerOutputs& outputs,
                                        const LayerGradients& grads,
                                        const LayerNeeds& needs) const {
  if (outputs.saved.defined()) return stepwise_backward(layer, outputs, grads, needs, kernels_);
  LayerOutputs completed = outputs;
  completed.saved = stepwise_forward(layer, Keep::kEverything, kernels_).saved;
  return stepwise_backward(layer, completed, grads, needs, kernels_);
}

}  // namespace fastcells
