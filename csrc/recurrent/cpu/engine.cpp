#include "recurrent/cpu/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cstring>

#include "cpu/team.h"
#include "recurrent/cpu/sequence.h"
#include "recurrent/cpu/single_step.h"
#include "recurrent/cpu/step_kernels.h"
#include "recurrent/elementwise/engine.h"
#include "recurrent/rowwise/engine.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells::cpu {
namespace {

const CellKernels* kernels_of(const Layer& layer) {
  std::string why;
  return find_kernels(
      layer.cell, layer.storage,
      weight_storage(layer.weights[0].weight_hh.scalar_type(), layer.input.scalar_type()),
      layer.sizes, layer.is_projected(), why);
}

// A second product in a step is the row-wise engine's, too.
bool is_second_product_for_rows(const CellFacts& cell, const LayerSizes& s, bool is_projected,
                                bool is_quantized) {
  return (is_projected || cell.two_products) && !is_quantized && s.T * s.B * s.H > 0;
}
bool is_for_rows(const Layer& layer) {
  return layer.is_rowwise() ||
         (layer.sizes.P > 0 &&
          is_second_product_for_rows(layer.cell, layer.sizes, layer.is_projected(),
                                     layer.is_quantized()));
}

const StepwiseEngine& stepwise() {
  static const StepwiseEngine engine(cpu_step_kernels());
  return engine;
}

class CpuEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    const SerialInForkedChild guard;
    if (layer.cell.is_elementwise) return elementwise::engine().forward(layer, keep);
    if (is_for_rows(layer)) return rowwise::engine().forward(layer, keep);
    const CellKernels* kernels = kernels_of(layer);
    check_inference(layer, keep == Keep::kStates || keep == Keep::kEverything);
    if (!kernels && layer.is_quantized()) return nothing_of(layer);
    if (!kernels) return stepwise().forward(layer, keep);
    if (is_step(layer, *kernels)) return layer_of_steps(layer, keep, *kernels);
    return sequence_forward(layer, keep, *kernels);
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    const SerialInForkedChild guard;
    if (layer.cell.is_elementwise) {
      return elementwise::engine().backward(layer, outputs, grads, needs);
    }
    if (is_for_rows(layer)) return rowwise::engine().backward(layer, outputs, grads, needs);
    check_inference(layer, true);
    const CellKernels* kernels = kernels_of(layer);
    return kernels ? sequence_backward(layer, outputs, grads, needs, *kernels)
                   : stepwise().backward(layer, outputs, grads, needs);
  }
  bool is_plain_step(const Layer& layer) const override {
    const bool is_whole_step = layer.sizes.T == 1 && layer.sizes.D == 1 &&
                               !layer.lengths.defined() && !layer.resets.defined();
    return is_whole_step && !layer.cell.is_elementwise && !is_for_rows(layer) && kernels_of(layer);
  }
  LayerOutputs step(const Layer& layer) const override {
    if (layer.cell.is_elementwise || is_for_rows(layer)) return forward(layer, Keep::kNothing);
    const CellKernels* kernels = kernels_of(layer);
    if (!kernels || !is_step(layer, *kernels)) return forward(layer, Keep::kNothing);
    const auto& s = layer.sizes;
    LayerOutputs outputs;
    outputs.output = at::empty({1, s.B, s.H}, layer.input.options());
    outputs.h_n = at::empty({1, s.B, s.H}, layer.input.options());
    if (layer.cell.has_c()) outputs.c_n = at::empty_like(outputs.h_n);
    run_directions(layer, *kernels, outputs);
    return outputs;
  }

 private:
  static void check_inference(const Layer& layer, bool is_training) {
    TORCH_CHECK(!layer.is_quantized() || !is_training,
                "fastcells: quantized weights are for inference: nothing is kept for a gradient");
  }
  // What has no kernels for narrow weights: nothing to compute, or refused.
  static LayerOutputs nothing_of(const Layer& layer) {
    TORCH_CHECK(layer.sizes.B * layer.sizes.H == 0, "fastcells: narrow weights of a ",
                layer.cell.name, layer.is_projected() ? " with a projection" : "",
                " have no kernels: expected no projection, a cell of one product a step and T > 0");
    return empty_outputs(layer, Keep::kNothing);
  }
  // Whether the step kernels take it, a step at a time.
  static bool is_step(const Layer& layer, const CellKernels& kernels) {
    return kernels.step && is_few_steps(layer.sizes, layer.storage) && !layer.lengths.defined() &&
           !layer.resets.defined();
  }
  // Step after step of each direction: h of every step, final states, and what is defined of cells
  // and saved. `outputs` are those of one direction after the other: output [D, T, B, H], cells
  // [D, T, B, H].
  static void run_directions(const Layer& layer, const CellKernels& kernels,
                             const LayerOutputs& outputs) {
    const auto& s = layer.sizes;
    const at::Tensor input = layer.input.to(layer.arithmetic());
    const at::Tensor h_0 = layer.h_0.defined() ? layer.h_0.to(layer.arithmetic()) : layer.h_0;
    const int64_t rows = s.B * s.H;
    for (int64_t d = 0; d < s.D; ++d) {
      const DirectionWeights& w = layer.weights[d];
      StepArgs a = step_arguments(s, w);
      a.h = pointer(h_0, d * rows), a.c = pointer(layer.c_0, d * rows);
      a.c_new = pointer(outputs.c_n, d * rows);
      for (int64_t i = 0; i < s.T; ++i) {
        const int64_t t = d == 0 ? i : s.T - 1 - i, at = (d * s.T + t) * rows;
        a.input = pointer(input, t * s.B * s.I);
        a.h_new = pointer(outputs.output, at), a.cells = pointer(outputs.cells, at);
        a.saved = pointer(outputs.saved, at * s.saved);
        run_step(kernels, s, element_bytes(layer.storage), a);
        a.h = a.h_new, a.c = a.c_new;
      }
      std::memcpy(pointer(outputs.h_n, d * rows), a.h_new, rows * outputs.h_n.element_size());
    }
  }
  static LayerOutputs layer_of_steps(const Layer& layer, Keep keep, const CellKernels& kernels) {
    const auto& s = layer.sizes;
    LayerOutputs outputs = empty_outputs(layer, keep);
    if (s.D == 1) return run_directions(layer, kernels, outputs), outputs;
    LayerOutputs apart = outputs;
    apart.output = at::empty({s.D, s.T, s.B, s.H}, outputs.output.options());
    const bool has_cells = outputs.cells.defined();
    if (has_cells) apart.cells = at::empty({s.D, s.T, s.B, s.H}, outputs.cells.options());
    run_directions(layer, kernels, apart);
    put_side_by_side(s, apart.output, outputs.output);
    if (has_cells) put_side_by_side(s, apart.cells, outputs.cells);
    return outputs;
  }
  // [D, T, B, H] -> [T, B, D*H]
  static void put_side_by_side(const LayerSizes& s, const at::Tensor& from, const at::Tensor& to) {
    const int64_t rows = s.T * s.B;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t d = 0; d < s.D; ++d) {
        std::memcpy(pointer(to, (row * s.D + d) * s.H), pointer(from, (d * rows + row) * s.H),
                    s.H * from.element_size());
      }
    }
  }
};

}  // namespace

WeightStorage weight_storage(at::ScalarType weights, at::ScalarType input) {
  if (weights == input) return WeightStorage::kAsTensors;
  return weights == at::kChar ? WeightStorage::kInt8 : WeightStorage::kBFloat16;
}

const Engine& engine() {
  static const CpuEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, WeightStorage weights,
               const LayerSizes& sizes, bool is_projected, bool is_training, bool has_rows,
               bool is_rowwise) {
  if (cell.is_elementwise) return elementwise::explain(cell, storage, sizes);
  const bool is_quantized = weights != WeightStorage::kAsTensors;
  if (is_rowwise || cell.whole_rows ||
      is_second_product_for_rows(cell, sizes, is_projected, is_quantized)) {
    return rowwise::explain(cell, storage, sizes, is_training);
  }
  std::string why;
  const CellKernels* kernels = find_kernels(cell, storage, weights, sizes, is_projected, why);
  if (!kernels) return {"stepwise", "", why};
  const std::string set = std::string(kernels->instruction_set) + ", ";
  if (kernels->step && is_few_steps(sizes, storage) && !has_rows) {
    const int threads = step_threads(sizes, element_bytes(storage));
    return {"step", set + std::to_string(threads) + (threads == 1 ? " thread" : " threads"), ""};
  }
  const Plan plan = plan_layer(*kernels, cell, storage, sizes, is_training);
  return {sizes.T == 1 && kernels->takes_own_weights ? "step" : "sequence",
          set + describe(plan, is_training), ""};
}

}  // namespace fastcells::cpu
