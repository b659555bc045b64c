#include "recurrent/elementwise/cuda/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "recurrent/compiled/cuda/kernels.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/elementwise/cuda/launch.h"
#include "recurrent/gate_gradients.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells::elementwise {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

void check(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

// What both ways of one direction have.
template <class Args>
Args arguments(const Layer& layer, int64_t d) {
  const auto& s = layer.sizes;
  const DirectionWeights& w = layer.weights[d];
  Args a{};
  a.rows = layer.rows(d);
  a.H = s.H, a.I = s.I, a.raw_column = layer.raw_column(d);
  a.input = pointer(layer.input);
  a.h_0 = pointer(layer.h_0, d * s.B * s.H), a.c_0 = pointer(layer.c_0, d * s.B * s.c());
  a.unit_weights = pointer(w.weight_hh), a.skip_scale = pointer(w.skip_scale);
  a.output_stride = s.D * s.H, a.cells_stride = s.D * s.c(), a.saved_stride = s.saved * s.H;
  return a;
}

class CudaElementwiseEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    const auto& s = layer.sizes;
    LayerOutputs outputs = empty_outputs(layer, keep);
    const at::Tensor x = operand_rows(layer, layer.input.scalar_type());
    for (int64_t d = 0; d < s.D; ++d) {
      const DirectionWeights& w = layer.weights[d];
      const at::Tensor x_gates = product(x, w.weight_ih.t(), layer.arithmetic());
      auto a = arguments<LaneForwardArgs>(layer, d);
      a.x_gates = pointer(x_gates), a.bias = pointer(w.bias_ih);
      a.output = pointer(outputs.output, d * s.H), a.cells = pointer(outputs.cells, d * s.c());
      a.h_n = pointer(outputs.h_n, d * s.B * s.H), a.c_n = pointer(outputs.c_n, d * s.B * s.c());
      a.saved = pointer(outputs.saved, d * s.T * s.B * a.saved_stride);
      if (compiled::is_compiled(layer.cell.kind)) {
        check(compiled::launch(layer.cell.kind, layer.storage, a, stream()));
        continue;
      }
      dispatch_elementwise_cell(layer.cell.kind, [&](auto cell) {
        using Cell = typename decltype(cell)::type;
        check(launch_lanes_forward<Cell>(layer.storage, a, stream()));
      });
    }
    return outputs;
  }

  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    LayerOutputs complete = outputs;
    if (!complete.saved.defined()) complete.saved = forward(layer, Keep::kEverything).saved;
    const auto& s = layer.sizes;
    const auto storage = layer.input.options(), arithmetic = storage.dtype(layer.arithmetic());
    const at::Tensor x = operand_rows(layer, layer.input.scalar_type());
    const at::Tensor d_h_0 = at::empty({s.D, s.B, s.H}, arithmetic);
    const at::Tensor d_c_0 =
        layer.cell.has_c() ? at::empty({s.D, s.B, s.c()}, arithmetic) : at::Tensor();
    InputGradients result;
    at::Tensor d_input;  // arithmetic [T*B, I]
    for (int64_t d = 0; d < s.D; ++d) {
      GateGradients gates;
      gates.dx_gates = at::empty({s.T * s.B, s.G * s.H}, storage);
      const at::Tensor d_units = at::zeros({layer.cell.unit_weights + 1, s.B, s.H}, arithmetic);
      const at::Tensor d_raw =
          layer.cell.reads_input ? at::empty({s.T * s.B, s.H}, arithmetic) : at::Tensor();
      run_back(layer, complete, grads, d, {d_h_0, d_c_0, gates.dx_gates, d_units, d_raw});
      PerWeight<bool> of_products = needs.weights[d];
      of_products.weight_hh = false;
      DirectionWeights found = gates.d_weights(layer, of_products, x);
      add_unit_gradients(layer, needs.weights[d], d_units.sum(1), found);
      result.weights.push_back(found);
      if (!needs.input) continue;
      at::Tensor own = gates.d_input(layer, d);
      if (d_raw.defined()) own.narrow(1, layer.raw_column(d), s.H).add_(d_raw);
      d_input = d_input.defined() ? d_input.add_(own) : own;
    }
    if (needs.input) result.input = d_input.view({s.T, s.B, s.I}).to(storage.dtype());
    if (needs.h_0) result.h_0 = d_h_0.to(storage.dtype());
    if (needs.c_0) result.c_0 = d_c_0.to(storage.dtype());
    return result;
  }

 private:
  struct Written {  // by the lanes of one direction, but for the states: of all
    at::Tensor d_h_0, d_c_0, dx_gates, d_units, d_raw;
  };
  static void run_back(const Layer& layer, const LayerOutputs& outputs, const LayerGradients& grads,
                       int64_t d, const Written& to) {
    const auto& s = layer.sizes;
    auto a = arguments<LaneBackwardArgs>(layer, d);
    a.output = pointer(outputs.output, d * s.H), a.cells = pointer(outputs.cells, d * s.c());
    a.saved = pointer(outputs.saved, d * s.T * s.B * a.saved_stride);
    a.d_output = pointer(grads.output, d * s.H), a.d_cells = pointer(grads.cells, d * s.c());
    a.d_h_n = pointer(grads.h_n, d * s.B * s.H), a.d_c_n = pointer(grads.c_n, d * s.B * s.c());
    a.dx_gates = pointer(to.dx_gates), a.d_units = pointer(to.d_units);
    a.d_raw = pointer(to.d_raw);
    a.d_h_0 = pointer(to.d_h_0, d * s.B * s.H), a.d_c_0 = pointer(to.d_c_0, d * s.B * s.c());
    if (compiled::is_compiled(layer.cell.kind)) {
      return check(compiled::launch(layer.cell.kind, layer.storage, a, stream()));
    }
    dispatch_elementwise_cell(layer.cell.kind, [&](auto cell) {
      using Cell = typename decltype(cell)::type;
      check(launch_lanes_backward<Cell>(layer.storage, a, stream()));
    });
  }
  // sums: [V + 1, H], over the rows.
  static void add_unit_gradients(const Layer& layer, const PerWeight<bool>& needs,
                                 const at::Tensor& sums, DirectionWeights& found) {
    const auto storage = layer.input.scalar_type();
    const int64_t V = layer.cell.unit_weights;
    if (needs.weight_hh && V > 0) found.weight_hh = sums.narrow(0, 0, V).reshape({-1}).to(storage);
    if (needs.skip_scale && layer.cell.reads_input)
      found.skip_scale = sums.select(0, V).to(storage);
  }
};

}  // namespace

const Engine& cuda_engine() {
  static const CudaElementwiseEngine engine;
  return engine;
}

}  // namespace fastcells::elementwise
