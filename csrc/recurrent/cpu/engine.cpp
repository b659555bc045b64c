#include "recurrent/cpu/engine.h"

#include <ATen/ops/empty.h>

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
    return kernels ? sequence_forward(layer, keep, *kernels) : stepwise().forward(layer, keep);
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
    if (!kernels || layer.sizes.B > kMostStepRows) return forward(layer, Keep::kNothing);
    return step_in_place(layer, *kernels);
  }

 private:
  static LayerOutputs step_in_place(const Layer& layer, const CellKernels& kernels) {
    const auto& s = layer.sizes;
    const DirectionWeights& w = layer.weights[0];
    LayerOutputs outputs;
    outputs.h_n = at::empty({1, s.B, s.H}, layer.input.options());
    if (layer.cell.states == 2) outputs.c_n = at::empty({1, s.B, s.H}, layer.input.options());
    const at::Tensor input = layer.input.to(layer.arithmetic());
    const at::Tensor h = layer.h_0.defined() ? layer.h_0.to(layer.arithmetic()) : layer.h_0;
    run_step(kernels, s, {input, h, layer.c_0, w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh},
             outputs.h_n, outputs.c_n);
    return outputs;
  }
};

}  // namespace

const Engine& engine() {
  static const CpuEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_projected,
               bool is_training, bool is_step) {
  std::string why;
  const CellKernels* kernels = find_kernels(cell, storage, sizes, is_projected, why);
  if (!kernels) return {"stepwise", "", why};
  const std::string set = std::string(name_of(instruction_set())) + ", ";
  if (is_step && !is_training && sizes.B <= kMostStepRows) {
    const int threads = step_threads(sizes, element_bytes(storage));
    return {"step", set + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), ""};
  }
  const Plan plan = plan_layer(*kernels, cell, storage, sizes, is_training);
  return {"sequence", set + describe(plan, is_training), ""};
}

}  // namespace fastcells::cpu
