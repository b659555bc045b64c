#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "recurrent/gate_gradients.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells {

at::Tensor GateGradients::d_input(const Layer& layer, int64_t direction) const {
  const at::Tensor& weight_ih = layer.weights[direction].weight_ih;
  return product(dx_gates, weight_ih.to(dx_gates.scalar_type()), layer.arithmetic());
}

// Products over all steps write the operands' own type: float32 on a CPU, storage on a GPU, where
// the accumulation is float32 all the same.
DirectionWeights GateGradients::d_weights(const Layer& layer, const PerWeight<bool>& needs,
                                          const at::Tensor& x) const {
  const at::ScalarType operand = dx_gates.scalar_type(), storage = layer.input.scalar_type();
  const auto of_bias = [&](const at::Tensor& gates) {
    return gates.sum(0, /*keepdim=*/false, layer.arithmetic()).to(storage);
  };
  DirectionWeights d;
  if (needs.weight_ih) d.weight_ih = product(dx_gates.t(), x, operand).to(storage);
  if (needs.weight_hh) d.weight_hh = product(dg_gates.t(), h_previous, operand).to(storage);
  if (needs.bias_ih) d.bias_ih = of_bias(dx_gates);
  if (needs.bias_hh) d.bias_hh = of_bias(dg_gates);
  return d;
}

namespace {

StepBackwardArgs arguments_of_rows(const Layer& layer, int64_t d, const LayerOutputs& outputs) {
  const auto& s = layer.sizes;
  StepBackwardArgs args{};
  args.rows = layer.rows(d);
  args.H = s.H, args.P = s.P, args.C = s.c();
  args.output_all = pointer(outputs.output, d * s.P);
  args.cells_all = pointer(outputs.cells, d * s.c());
  args.output_all_stride = s.D * s.P, args.cells_all_stride = s.D * s.c();
  args.h_0 = pointer(layer.h_0, d * s.B * s.P);
  args.c_0 = pointer(layer.c_0, d * s.B * s.c());
  return args;
}

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
    gates_.h_previous = at::empty({rows, s_.P}, operand);
    gates_.dx_gates = at::empty({rows, s_.G * s_.H}, operand);
    gates_.dg_gates = layer.cell.additive ? gates_.dx_gates : at::empty_like(gates_.dx_gates);
    carry_dh_ = initial_carry(grads.h_n, s_.P, arithmetic);
    product_dh_ = at::empty({s_.B, s_.P}, arithmetic);
    if (layer.cell.has_c()) carry_dc_ = initial_carry(grads.c_n, s_.c(), arithmetic);
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
    args.h_previous = pointer(gates_.h_previous);
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
  const at::Tensor& d_c_0() const { return d_c_0_; }  // [B, C] arithmetic or undefined
  // [T*B, I] arithmetic
  at::Tensor d_input() const { return gates_.d_input(layer_, d_); }
  // Of the weights that are needed, in storage.
  DirectionWeights d_weights(const PerWeight<bool>& needs, const at::Tensor& x) const {
    const at::ScalarType storage = layer_.input.scalar_type();
    PerWeight<bool> of_gates = needs;
    if (layer_.cell.two_products) of_gates.weight_hh = false;
    DirectionWeights d = gates_.d_weights(layer_, of_gates, x);
    if (needs.weight_hh && layer_.cell.two_products) d.weight_hh = d_weight_hh().to(storage);
    if (needs.weight_hr) {
      d.weight_hr = product(dh_projected_.t(), h_of_cell(), operand_type_).to(storage);
    }
    return d;
  }

 private:
  at::Tensor initial_carry(const at::Tensor& grad, int64_t width,
                           const at::TensorOptions& arithmetic) const {
    if (!grad.defined()) return at::zeros({s_.B, width}, arithmetic);
    return grad.select(0, d_).to(arithmetic.dtype(), false, /*copy=*/true).contiguous();
  }
  // Of two products: the rows of the last gate meet r h.
  at::Tensor d_weight_hh() const {
    const at::Tensor& dg = gates_.dg_gates;
    at::Tensor result = at::empty(weight_hh_.sizes(), dg.options());
    const int64_t first = (s_.G - 1) * s_.H;
    product_out(result.narrow(0, 0, first), dg.narrow(1, 0, first).t(), gates_.h_previous);
    product_out(result.narrow(0, first, s_.H), dg.narrow(1, first, s_.H).t(), reset_h_);
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
    StepBackwardArgs args = arguments_of_rows(layer_, d_, outputs_);
    args.d_output_stride = s_.D * s_.P, args.d_cells_stride = s_.D * s_.c();
    args.saved_stride = s_.saved * s_.H;
    args.carry_dh = pointer(carry_dh_), args.carry_dc = pointer(carry_dc_);
    args.dh_cell = pointer(dh_cell_), args.d_reset_h = pointer(d_reset_h_);
    return args;
  }

  void set_step(StepBackwardArgs& args, int64_t t) const {
    const int64_t row = t * s_.B;
    args.t = t;
    args.d_output = pointer(grads_.output, row * args.d_output_stride + d_ * s_.P);
    args.d_cells = pointer(grads_.cells, row * args.d_cells_stride + d_ * s_.c());
    args.saved = pointer(outputs_.saved, (d_ * s_.T + t) * s_.B * args.saved_stride);
    args.h_previous = pointer(gates_.h_previous, row * s_.P);
    args.dx_gates = pointer(gates_.dx_gates, row * s_.G * s_.H);
    args.dg_gates = pointer(gates_.dg_gates, row * s_.G * s_.H);
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
    const at::Tensor dg = at_step(gates_.dg_gates);
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
  GateGradients gates_;                // one tensor of gates for an additive cell
  at::Tensor carry_dh_, product_dh_;   // arithmetic [B, P]
  at::Tensor carry_dc_;                // arithmetic [B, C] or undefined
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
  InputGradients result;
  if (needs.h_0) result.h_0 = at::empty({s.D, s.B, s.P}, storage);
  if (needs.c_0) result.c_0 = at::empty({s.D, s.B, s.c()}, storage);
  const at::Tensor x = operand_rows(layer, kernels.operand(layer));
  at::Tensor d_input;  // arithmetic [T*B, I]
  for (int64_t d = 0; d < s.D; ++d) {
    BackwardPass pass(layer, d, outputs, grads, kernels);
    pass.run();
    if (needs.h_0) result.h_0.select(0, d).copy_(pass.d_h_0());
    if (needs.c_0) result.c_0.select(0, d).copy_(pass.d_c_0());
    if (needs.input) d_input = d_input.defined() ? d_input.add_(pass.d_input()) : pass.d_input();
    result.weights.push_back(pass.d_weights(needs.weights[d], x));
  }
  if (needs.input) {
    result.input = d_input.view({s.T, s.B, s.I}).to(storage.dtype());
  }
  return result;
}

InputGradients collect_gate_gradients(const Layer& layer, const LayerOutputs& outputs,
                                      const LayerNeeds& needs, const StepKernels& kernels,
                                      std::vector<GateGradients>& gates) {
  const auto& s = layer.sizes;
  const at::Tensor x = operand_rows(layer, kernels.operand(layer));
  InputGradients result;
  at::Tensor d_input;  // arithmetic [T*B, I]
  for (int64_t d = 0; d < s.D; ++d) {
    GateGradients& g = gates[d];
    StepBackwardArgs args = arguments_of_rows(layer, d, outputs);
    g.h_previous = at::empty({s.T * s.B, s.P}, g.dx_gates.options());
    args.h_previous = pointer(g.h_previous);
    kernels.backward(Stage::kPrevious, layer, args);
    if (needs.input) {
      const at::Tensor own = g.d_input(layer, d);
      d_input = d_input.defined() ? d_input.add_(own) : own;
    }
    result.weights.push_back(g.d_weights(layer, needs.weights[d], x));
  }
  if (needs.input) result.input = d_input.view({s.T, s.B, s.I}).to(layer.input.scalar_type());
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
