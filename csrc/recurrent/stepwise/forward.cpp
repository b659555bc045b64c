#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/mm.h>

#include "recurrent/stepwise/stepwise.h"

namespace fastcells {

void product_out(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (out.scalar_type() == a.scalar_type()) {
    at::mm_out(out, a, b);
  } else {
    at::mm_outf(a, b, out.scalar_type(), out);
  }
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options().dtype(dtype));
  product_out(out, a, b);
  return out;
}

at::Tensor operand_rows(const Layer& layer, at::ScalarType operand) {
  const auto& s = layer.sizes;
  at::Tensor rows = layer.input;
  if (layer.lengths.defined()) {
    const at::Tensor steps = at::arange(s.T, layer.lengths.options()).unsqueeze(1);
    rows = at::masked_fill(rows, steps.ge(layer.lengths).unsqueeze(2), 0);
  }
  return rows.to(operand).view({s.T * s.B, s.I});
}

namespace {

// One direction of a layer on its way through time.
class ForwardPass {
 public:
  ForwardPass(const Layer& layer, int64_t direction, const at::Tensor& x, LayerOutputs& outputs,
              const StepKernels& kernels)
      : layer_(layer),
        s_(layer.sizes),
        d_(direction),
        outputs_(outputs),
        kernels_(kernels),
        weights_(layer.weights[direction]) {
    const auto arithmetic = layer.input.options().dtype(layer.arithmetic());
    const auto operand = layer.input.options().dtype(kernels.operand(layer));
    weight_hh_ = weights_.weight_hh.to(operand.dtype()).t();
    if (layer.is_projected()) weight_hr_ = weights_.weight_hr.to(operand.dtype()).t();
    if (weights_.bias_ih.defined()) {
      bias_ih_ = weights_.bias_ih.to(arithmetic.dtype());
      bias_hh_ = weights_.bias_hh.to(arithmetic.dtype());
    }
    const at::Tensor weight_ih = weights_.weight_ih.to(operand.dtype()).t();
    x_gates_ = product(x, weight_ih, layer.arithmetic());
    h_gates_ = at::empty({s_.B, s_.G * s_.H}, arithmetic);
    carry_h_ = at::empty({s_.B, s_.P}, operand);
    if (layer.cell.has_c()) carry_c_ = at::empty({s_.B, s_.c()}, arithmetic);
    if (layer.is_projected() || layer.cell.two_products) {
      operand_ = at::empty({s_.B, s_.H}, operand);
    }
    if (layer.is_projected()) projected_ = at::empty({s_.B, s_.P}, arithmetic);
  }

  void run() {
    StepForwardArgs args = fixed_arguments();
    kernels_.forward(Stage::kStart, layer_, args);
    for (int64_t i = 0; i < s_.T; ++i) {
      set_step(args, args.rows.reverse ? s_.T - 1 - i : i);
      step(args);
    }
    outputs_.h_n.select(0, d_).copy_(carry_h_);
    if (carry_c_.defined()) outputs_.c_n.select(0, d_).copy_(carry_c_);
  }

 private:
  StepForwardArgs fixed_arguments() const {
    StepForwardArgs args{};
    args.rows = layer_.rows(d_);
    args.H = s_.H, args.P = s_.P, args.C = s_.c();
    args.h_0 = pointer(layer_.h_0, d_ * s_.B * s_.P);
    args.c_0 = pointer(layer_.c_0, d_ * s_.B * s_.c());
    args.h_gates = pointer(h_gates_);
    args.bias_ih = pointer(bias_ih_), args.bias_hh = pointer(bias_hh_);
    args.carry_h = pointer(carry_h_), args.carry_c = pointer(carry_c_);
    args.operand = pointer(operand_), args.projected = pointer(projected_);
    args.output_stride = s_.D * s_.P, args.cells_stride = s_.D * s_.c();
    args.saved_stride = s_.saved * s_.H;
    args.is_projected = layer_.is_projected();
    return args;
  }

  void set_step(StepForwardArgs& args, int64_t t) const {
    args.t = t;
    args.x_gates = pointer(x_gates_, t * s_.B * s_.G * s_.H);
    args.output = pointer(outputs_.output, t * s_.B * args.output_stride + d_ * s_.P);
    args.cells = pointer(outputs_.cells, t * s_.B * args.cells_stride + d_ * s_.c());
    args.saved = pointer(outputs_.saved, (d_ * s_.T + t) * s_.B * args.saved_stride);
  }

  void step(const StepForwardArgs& args) {
    if (layer_.cell.two_products) {
      const int64_t first = (s_.G - 1) * s_.H;  // the last gate's product waits for reset_h
      product_out(h_gates_.narrow(1, 0, first), carry_h_, weight_hh_.narrow(1, 0, first));
      kernels_.forward(Stage::kResetForward, layer_, args);
      product_out(h_gates_.narrow(1, first, s_.H), operand_, weight_hh_.narrow(1, first, s_.H));
    } else {
      product_out(h_gates_, carry_h_, weight_hh_);
    }
    kernels_.forward(Stage::kForward, layer_, args);
    if (layer_.is_projected()) {
      product_out(projected_, operand_, weight_hr_);
      kernels_.forward(Stage::kProjectForward, layer_, args);
    }
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const int64_t d_;
  LayerOutputs& outputs_;
  const StepKernels& kernels_;
  const DirectionWeights& weights_;
  at::Tensor weight_hh_, weight_hr_;  // operands [P, G*H], [H, P]
  at::Tensor bias_ih_, bias_hh_;      // arithmetic [G*H] or undefined
  at::Tensor x_gates_, h_gates_;      // arithmetic [T*B, G*H], [B, G*H]
  at::Tensor carry_h_, carry_c_;      // operand [B, P], arithmetic [B, C] or undefined
  at::Tensor operand_, projected_;    // operand [B, H], arithmetic [B, P] or undefined
};

}  // namespace

LayerOutputs stepwise_forward(const Layer& layer, Keep keep, const StepKernels& kernels) {
  LayerOutputs outputs = empty_outputs(layer, keep);
  const at::Tensor x = operand_rows(layer, kernels.operand(layer));
  for (int64_t d = 0; d < layer.sizes.D; ++d) ForwardPass(layer, d, x, outputs, kernels).run();
  return outputs;
}

LayerOutputs StepwiseEngine::forward(const Layer& layer, Keep keep) const {
  return stepwise_forward(layer, keep, kernels_);
}

}  // namespace fastcells
