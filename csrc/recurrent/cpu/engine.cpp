#include "recurrent/cpu/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cstring>

#include "cpu/instruction_set.h"
#include "cpu/team.h"
#include "recurrent/cpu/sequence.h"
#include "recurrent/cpu/single_step.h"
#include "recurrent/cpu/step_kernels.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells::cpu {
namespace {

const CellKernels* kernels_of(const Layer& layer) {
  std::string why;
  return find_kernels(layer.cell, layer.storage, layer.sizes, layer.is_projected(), why);
}

const StepwiseEngine& stepwise() {
  static const StepwiseEngine engine(cpu_step_kernels());
  return engine;
}

class CpuEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    const SerialInForkedChild guard;
    const CellKernels* kernels = kernels_of(layer);
    if (!kernels) return stepwise().forward(layer, keep);
    if (is_step(layer)) return layer_of_step(layer, keep, *kernels);
    return sequence_forward(layer, keep, *kernels);
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    const SerialInForkedChild guard;
    const CellKernels* kernels = kernels_of(layer);
    return kernels ? sequence_backward(layer, outputs, grads, needs, *kernels)
                   : stepwise().backward(layer, outputs, grads, needs);
  }
  LayerOutputs step(const Layer& layer) const override {
    const CellKernels* kernels = kernels_of(layer);
    if (!kernels || !is_step(layer)) return forward(layer, Keep::kNothing);
    LayerOutputs outputs;
    outputs.h_n = at::empty({1, layer.sizes.B, layer.sizes.H}, layer.input.options());
    if (layer.cell.states == 2) outputs.c_n = at::empty_like(outputs.h_n);
    run_directions(layer, *kernels, outputs);
    return outputs;
  }

 private:
  // Whether the step kernels take it.
  static bool is_step(const Layer& layer) {
    return layer.sizes.T == 1 && layer.sizes.B <= kMostStepRows && !layer.lengths.defined() &&
           !layer.resets.defined();
  }
  // Final states, and what is defined of cells and saved.
  static void run_directions(const Layer& layer, const CellKernels& kernels,
                             const LayerOutputs& outputs) {
    const auto& s = layer.sizes;
    const at::Tensor input = layer.input.to(layer.arithmetic());
    const at::Tensor h = layer.h_0.defined() ? layer.h_0.to(layer.arithmetic()) : layer.h_0;
    const auto of = [&](const at::Tensor& x, int64_t d) {
      return s.D == 1 || !x.defined() ? x : x.select(0, d);
    };
    for (int64_t d = 0; d < s.D; ++d) {
      const DirectionWeights& w = layer.weights[d];
      run_step(kernels, s,
               {input, of(h, d), of(layer.c_0, d), w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh},
               of(outputs.h_n, d), of(outputs.c_n, d), of(outputs.cells, d), of(outputs.saved, d));
    }
  }
  // A whole layer of one step: output and cells hold both directions side by side.
  static LayerOutputs layer_of_step(const Layer& layer, Keep keep, const CellKernels& kernels) {
    const auto& s = layer.sizes;
    LayerOutputs outputs = empty_outputs(layer, keep);
    LayerOutputs of_directions = outputs;
    const bool has_sides = s.D == 2 && outputs.cells.defined();
    if (has_sides) of_directions.cells = at::empty({s.D, s.B, s.H}, outputs.cells.options());
    run_directions(layer, kernels, of_directions);
    put_side_by_side(s, of_directions.h_n, outputs.output);
    if (has_sides) put_side_by_side(s, of_directions.cells, outputs.cells);
    return outputs;
  }
  // [D, B, H] -> [1, B, D*H]
  static void put_side_by_side(const LayerSizes& s, const at::Tensor& from, const at::Tensor& to) {
    const std::size_t bytes = s.H * from.element_size();
    for (int64_t b = 0; b < s.B; ++b) {
      for (int64_t d = 0; d < s.D; ++d) {
        std::memcpy(pointer(to, (b * s.D + d) * s.H), pointer(from, (d * s.B + b) * s.H), bytes);
      }
    }
  }
};

}  // namespace

const Engine& engine() {
  static const CpuEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_projected,
               bool is_training, bool has_rows) {
  std::string why;
  const CellKernels* kernels = find_kernels(cell, storage, sizes, is_projected, why);
  if (!kernels) return {"stepwise", "", why};
  const std::string set = std::string(name_of(instruction_set())) + ", ";
  if (sizes.T == 1 && sizes.B <= kMostStepRows && !has_rows) {
    const int threads = step_threads(sizes, element_bytes(storage));
    return {"step", set + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), ""};
  }
  const Plan plan = plan_layer(*kernels, cell, storage, sizes, is_training);
  return {"sequence", set + describe(plan, is_training), ""};
}

}  // namespace fastcells::cpu
