#include "recurrent/rowwise/cuda/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "recurrent/compiled/cuda/kernels.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/gate_gradients.h"
#include "recurrent/rowwise/cuda/launch.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells::rowwise {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

void check(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

// f(TypeTag<Cell>), a launcher of the layer's cell, or the kernels of one that was compiled by
// itself.
template <class Args, class F>
void launch(const Layer& layer, const Args& args, const F& f) {
  if (compiled::is_compiled(layer.cell.kind)) {
    return check(compiled::launch(layer.cell.kind, layer.storage, args, stream()));
  }
  dispatch_rowwise_cell(layer.cell.kind, [&](auto cell) { check(f(cell)); });
}

// What both ways of one direction have.
template <class Args>
Args arguments(const Layer& layer, int64_t d) {
  const auto& s = layer.sizes;
  const DirectionWeights& w = layer.weights[d];
  Args a{};
  a.rows = layer.rows(d);
  a.H = s.H, a.C = s.c();
  a.h_0 = pointer(layer.h_0, d * s.B * s.H), a.c_0 = pointer(layer.c_0, d * s.B * s.c());
  a.bias_ih = pointer(w.bias_ih), a.bias_hh = pointer(w.bias_hh);
  a.norm_ih = pointer(w.norm_ih), a.norm_hh = pointer(w.norm_hh);
  a.norm_gates = pointer(w.norm_gates);
  a.carries_norm = w.norm_carried_c.defined();
  a.norm_c = pointer(a.carries_norm ? w.norm_carried_c : w.norm_c);
  a.norm_c_bias = pointer(w.norm_c_bias);
  a.unit_weights = pointer(w.unit_weights);
  if (w.noise.defined()) {
    const auto* const x = w.noise.const_data_ptr<double>();
    a.noise = {x[0], x[1], x[2], x[3], x[4]};
  }
  a.output_stride = s.D * s.H, a.cells_stride = s.D * s.c(), a.saved_stride = s.saved * s.H;
  return a;
}

// One direction of a layer on its way through time.
void run_forward(const Layer& layer, int64_t d, const at::Tensor& x, const LayerOutputs& outputs) {
  const auto& s = layer.sizes;
  const DirectionWeights& w = layer.weights[d];
  const auto storage = layer.input.options(), arithmetic = storage.dtype(layer.arithmetic());
  auto a = arguments<RowForwardArgs>(layer, d);
  const at::Tensor x_gates = product(x, w.weight_ih.t(), layer.arithmetic());
  const at::Tensor h_gates = at::empty({s.B, s.G * s.H}, arithmetic);
  const at::Tensor carry_h = at::empty({s.B, s.H}, storage);
  const at::Tensor dropped_h = a.noise.drops() ? at::empty_like(carry_h) : at::Tensor();
  const at::Tensor carry_c =
      layer.cell.has_c() ? at::empty({s.B, s.c()}, arithmetic) : at::Tensor();
  const at::Tensor new_c =
      layer.normalises_c() ? at::empty({s.B, 2, s.H}, arithmetic) : at::Tensor();
  a.x_gates = pointer(x_gates), a.h_gates = pointer(h_gates);
  a.carry_h = pointer(carry_h), a.carry_c = pointer(carry_c);
  a.dropped_h = pointer(dropped_h), a.new_c = pointer(new_c);
  a.output = pointer(outputs.output, d * s.H), a.cells = pointer(outputs.cells, d * s.c());
  a.saved = pointer(outputs.saved, d * s.T * s.B * a.saved_stride);
  check(launch_row_start(layer.storage, a, stream()));
  for (int64_t i = 0; i < s.T; ++i) {
    a.t = a.rows.reverse ? s.T - 1 - i : i;
    product_out(h_gates, dropped_h.defined() ? dropped_h : carry_h, w.weight_hh.t());
    launch(layer, a, [&](auto cell) {
      return launch_row_forward<typename decltype(cell)::type>(layer.storage, a, stream());
    });
  }
  outputs.h_n.select(0, d).copy_(carry_h);
  if (carry_c.defined()) outputs.c_n.select(0, d).copy_(carry_c);
}

// One direction of a layer back through time.
class CudaBackwardPass {
 public:
  CudaBackwardPass(const Layer& layer, int64_t direction, const LayerOutputs& outputs,
                   const LayerGradients& grads, const PerWeight<bool>& needs)
      : layer_(layer),
        s_(layer.sizes),
        d_(direction),
        needs_(needs),
        arithmetic_(layer.input.options().dtype(layer.arithmetic())),
        args_(arguments<RowBackwardArgs>(layer, direction)) {
    args_.output = pointer(outputs.output, d_ * s_.H);
    args_.cells = pointer(outputs.cells, d_ * s_.c());
    args_.saved = pointer(outputs.saved, d_ * s_.T * s_.B * args_.saved_stride);
    args_.d_output = pointer(grads.output, d_ * s_.H);
    args_.d_cells = pointer(grads.cells, d_ * s_.c());
    carry_dh_ = initial_carry(grads.h_n, s_.H), product_dh_ = empty({s_.B, s_.H});
    args_.carry_dh = pointer(carry_dh_);
    if (layer.cell.has_c()) carry_dc_ = initial_carry(grads.c_n, s_.c());
    args_.carry_dc = pointer(carry_dc_);
    make_gates();
    make_sums();
  }

  // Fills the gradients of the gates at all steps, those of the initial states and the sums.
  void run() {
    const int64_t rows = s_.B;
    for (int64_t i = 0; i < s_.T; ++i) {
      args_.t = args_.rows.reverse ? i : s_.T - 1 - i;
      launch(layer_, args_, [&](auto cell) {
        return launch_row_backward<typename decltype(cell)::type>(layer_.storage, args_, stream());
      });
      product_out(product_dh_, gates_.dg_gates.narrow(0, args_.t * rows, rows),
                  layer_.weights[d_].weight_hh);
      args_.product_dh = pointer(product_dh_);
    }
    d_h_0_ = at::empty_like(carry_dh_);
    if (carry_dc_.defined()) d_c_0_ = at::empty_like(carry_dc_);
    args_.d_h_0 = pointer(d_h_0_), args_.d_c_0 = pointer(d_c_0_);
    check(launch_row_finish(layer_.storage, args_, stream()));
  }

  const at::Tensor& d_h_0() const { return d_h_0_; }  // [B, H] arithmetic
  const at::Tensor& d_c_0() const { return d_c_0_; }  // [B, C] arithmetic or undefined
  // [T*B, I] arithmetic
  at::Tensor d_input() const { return gates_.d_input(layer_, d_); }
  // Of the weights that are needed, in storage.
  DirectionWeights d_weights(const at::Tensor& x) {
    PerWeight<bool> of_products;
    of_products.weight_ih = needs_.weight_ih, of_products.weight_hh = needs_.weight_hh;
    DirectionWeights found = gates_.d_weights(layer_, of_products, x);
    for_each_weight(sums_, [&](const char* name, const at::Tensor& of_rows) {
      if (!of_rows.defined()) return;
      *find_weight(found, name) = of_rows.sum(0).to(layer_.input.scalar_type());
    });
    if (!norm_c_sums_.defined()) return found;
    const at::Tensor sums = norm_c_sums_.sum(0).to(layer_.input.scalar_type());
    if (needs_.norm_c) found.norm_c = sums[0].contiguous();
    if (needs_.norm_carried_c) found.norm_carried_c = sums[0].contiguous();
    if (needs_.norm_c_bias) found.norm_c_bias = sums[1].contiguous();
    return found;
  }

 private:
  at::Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, arithmetic_); }
  at::Tensor initial_carry(const at::Tensor& grad, int64_t width) const {
    if (!grad.defined()) return at::zeros({s_.B, width}, arithmetic_);
    return grad.select(0, d_).to(arithmetic_.dtype(), false, /*copy=*/true).contiguous();
  }
  void make_gates() {
    const int64_t rows = s_.T * s_.B, columns = s_.G * s_.H;
    const auto operand = layer_.input.options();
    gates_.dx_gates = at::empty({rows, columns}, operand);
    const bool shares = layer_.cell.additive && !args_.norm_ih;
    gates_.dg_gates = shares ? gates_.dx_gates : at::empty({rows, columns}, operand);
    gates_.h_previous = at::empty({rows, s_.H}, operand);
    gate_rows_ = empty({s_.B, 2, columns});
    if (layer_.normalises_c()) c_rows_ = empty({s_.B, 3, s_.H});
    args_.dx_gates = pointer(gates_.dx_gates);
    args_.dg_gates = shares ? nullptr : pointer(gates_.dg_gates);
    args_.h_previous = pointer(gates_.h_previous);
    args_.gate_rows = pointer(gate_rows_), args_.c_rows = pointer(c_rows_);
  }
  // Of each row, of the vectors that are needed.
  void make_sums() {
    const auto zeros = [&](int64_t width) { return at::zeros({s_.B, width}, arithmetic_); };
    DirectionWeights weights = layer_.weights[d_];
    PerWeight<bool> needs = needs_;
    for_each_weight(weights, [&](const std::string_view name, const at::Tensor& weight) {
      if (!*find_weight(needs, name) || name.starts_with("norm_c")) return;
      if (weight.dim() == 1) *find_weight(sums_, name) = zeros(weight.size(0));
    });
    if (needs_.norm_c || needs_.norm_carried_c || needs_.norm_c_bias) {
      norm_c_sums_ = at::zeros({s_.B, 2, s_.H}, arithmetic_);
    }
    args_.d_bias_ih = pointer(sums_.bias_ih), args_.d_bias_hh = pointer(sums_.bias_hh);
    args_.d_norm_ih = pointer(sums_.norm_ih);
    args_.d_norm_hh = pointer(sums_.norm_gates.defined() ? sums_.norm_gates : sums_.norm_hh);
    args_.d_norm_c = pointer(norm_c_sums_), args_.d_units = pointer(sums_.unit_weights);
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const int64_t d_;
  const PerWeight<bool>& needs_;
  const at::TensorOptions arithmetic_;
  RowBackwardArgs args_;
  GateGradients gates_;
  DirectionWeights sums_;                        // arithmetic [B, width] where needed
  at::Tensor norm_c_sums_, gate_rows_, c_rows_;  // arithmetic: rowwise/cuda/args.h
  at::Tensor carry_dh_, product_dh_, carry_dc_, d_h_0_, d_c_0_;
};

class CudaRowwiseEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    const LayerOutputs outputs = empty_outputs(layer, keep);
    const at::Tensor x = operand_rows(layer, layer.input.scalar_type());
    for (int64_t d = 0; d < layer.sizes.D; ++d) run_forward(layer, d, x, outputs);
    return outputs;
  }

  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    LayerOutputs complete = outputs;
    if (!complete.saved.defined()) complete.saved = forward(layer, Keep::kEverything).saved;
    const auto& s = layer.sizes;
    const auto storage = layer.input.options();
    const at::Tensor x = operand_rows(layer, layer.input.scalar_type());
    InputGradients result;
    if (needs.h_0) result.h_0 = at::empty({s.D, s.B, s.H}, storage);
    if (needs.c_0) result.c_0 = at::empty({s.D, s.B, s.c()}, storage);
    at::Tensor d_input;  // arithmetic [T*B, I]
    for (int64_t d = 0; d < s.D; ++d) {
      CudaBackwardPass pass(layer, d, complete, grads, needs.weights[d]);
      pass.run();
      if (needs.h_0) result.h_0.select(0, d).copy_(pass.d_h_0());
      if (needs.c_0) result.c_0.select(0, d).copy_(pass.d_c_0());
      if (needs.input) d_input = d_input.defined() ? d_input.add_(pass.d_input()) : pass.d_input();
      result.weights.push_back(pass.d_weights(x));
    }
    if (needs.input) result.input = d_input.view({s.T, s.B, s.I}).to(storage.dtype());
    return result;
  }
};

}  // namespace

const Engine& cuda_engine() {
  static const CudaRowwiseEngine engine;
  return engine;
}

}  // namespace fastcells::rowwise
