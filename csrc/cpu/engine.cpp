#include "cpu/engine.h"

#include <ATen/ops/empty.h>

#include "cpu/instruction_set.h"
#include "cpu/sequence.h"
#include "cpu/step_kernels.h"
#include "cpu/team.h"
#include "recurrent/stepwise.h"

namespace fastcells::cpu {
namespace {

// Rows of a single step that read the weights where they lie, one row after the other. With more
// rows packed weights are read once for all.
constexpr int64_t kMostStepRows = 2;
// Bytes of weights below which a second thread costs more than it brings.
constexpr int64_t kBytesPerThread = 512 * 1024;

const CellKernels* kernels_of(const Layer& layer) {
  std::string why;
  return find_kernels(layer.cell, layer.storage, layer.sizes, layer.is_projected(), why);
}

int64_t element_bytes(Storage storage) {
  return storage == Storage::kFloat64 ? 8 : storage == Storage::kFloat32 ? 4 : 2;
}

const StepwiseEngine& stepwise() {
  static const StepwiseEngine engine(cpu_step_kernels());
  return engine;
}

int step_threads(const LayerSizes& s, int64_t element_bytes) {
  const int64_t bytes = s.G * s.H * (s.I + s.H) * element_bytes;
  return int(std::clamp<int64_t>(bytes / kBytesPerThread, 1, available_threads()));
}

class CpuEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    const CellKernels* kernels = kernels_of(layer);
    return kernels ? sequence_forward(layer, keep, *kernels) : stepwise().forward(layer, keep);
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
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
    const StepArgs args{s.B, s.I, s.H, pointer(input), pointer(h), pointer(layer.c_0),
                        pointer(w.weight_ih), pointer(w.weight_hh), pointer(w.bias_ih),
                        pointer(w.bias_hh), pointer(outputs.h_n), pointer(outputs.c_n)};
    const int threads = step_threads(s, element_bytes(layer.storage));
    const int64_t blocks = (s.H + kernels.lanes - 1) / kernels.lanes;
    const auto units = [&](int64_t block) { return std::min(s.H, block * kernels.lanes); };
    const bool is_done = run_team(threads, [&](int thread) {
      kernels.step(args, units(blocks * thread / threads), units(blocks * (thread + 1) / threads));
    });
    if (!is_done) kernels.step(args, 0, s.H);
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
  const std::string set = std::string(instruction_set().name) + ", ";
  if (is_step && !is_training && sizes.B <= kMostStepRows) {
    const int threads = step_threads(sizes, element_bytes(storage));
    return {"step", set + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), ""};
  }
  const Plan plan = plan_layer(*kernels, cell, storage, sizes, is_training);
  return {"sequence", set + describe(plan, is_training), ""};
}

}  // namespace fastcells::cpu
