#include "recurrent/cpu/engine.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "cpu/instruction_set.h"
#include "recurrent/cpu/sequence.h"
#include "recurrent/cpu/step_kernels.h"
#include "cpu/team.h"
#include "recurrent/stepwise/stepwise.h"

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

const StepwiseEngine& stepwise() {
  static const StepwiseEngine engine(cpu_step_kernels());
  return engine;
}

int step_threads(const LayerSizes& s, int64_t element_bytes) {
  const int64_t bytes = s.G * s.H * (s.I + s.H) * element_bytes;
  return int(std::clamp<int64_t>(bytes / kBytesPerThread, 1, available_threads()));
}

// One step of tensors that fit together, into h_new and c_new.
void run_step(const CellKernels& kernels, const LayerSizes& s, const StepTensors& t,
              const at::Tensor& h_new, const at::Tensor& c_new) {
  const auto at_start = [](const at::Tensor& x) -> const void* {
    return x.defined() ? x.const_data_ptr() : nullptr;
  };
  StepArgs args{};
  args.B = s.B, args.I = s.I, args.H = s.H;
  args.input = at_start(t.input), args.h = at_start(t.h), args.c = at_start(t.c);
  args.weight_ih = at_start(t.weight_ih), args.weight_hh = at_start(t.weight_hh);
  args.bias_ih = at_start(t.bias_ih), args.bias_hh = at_start(t.bias_hh);
  args.h_new = pointer(h_new), args.c_new = pointer(c_new);
  const int threads = step_threads(s, t.weight_hh.element_size());
  const int64_t blocks = (s.H + kernels.lanes - 1) / kernels.lanes;
  const auto unit = [&](int64_t block) { return std::min(s.H, block * kernels.lanes); };
  run_team(threads, [&](int thread) {
    kernels.step(args, unit(blocks * thread / threads), unit(blocks * (thread + 1) / threads));
  });
}

// A tensor in main memory with nothing to it but its values: no derivative may be asked for.
bool is_plain(const at::Tensor& x) {
  constexpr c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                        c10::DispatchKey::AutocastCPU,
                                        c10::DispatchKey::ADInplaceOrView});
  return kPlain.has_all(x.key_set()) && !(at::GradMode::is_enabled() && x.requires_grad()) &&
         !x._fw_grad(/*level=*/0).defined();
}
bool is_plain(const at::Tensor& x, at::IntArrayRef shape) {
  return is_plain(x) && x.scalar_type() == at::kFloat && x.sizes() == shape && x.is_contiguous();
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

bool step_at_once(const CellFacts& cell, const StepTensors& t, at::Tensor& h_new,
                  at::Tensor& c_new) {
  const int64_t rank = t.input.dim();
  if (rank < 1 || rank > 2 || t.weight_ih.dim() != 2 || t.weight_hh.dim() != 2) return false;
  const int64_t B = rank == 2 ? t.input.size(0) : 1, I = t.input.size(-1);
  const int64_t H = t.weight_hh.size(1), rows = cell.gates * H;
  const std::array<int64_t, 2> state_shape{B, H}, input_shape{B, I};
  const auto of_rank = [&](const std::array<int64_t, 2>& shape) {
    return at::IntArrayRef(shape).slice(2 - rank);
  };
  const bool has_c = cell.states == 2, has_bias = t.bias_ih.defined();
  if (B < 1 || B > kMostStepRows || H == 0 || has_c != t.c.defined() ||
      has_bias != t.bias_hh.defined() || !is_plain(t.input, of_rank(input_shape)) ||
      !is_plain(t.h, of_rank(state_shape)) || !is_plain(t.weight_ih, {rows, I}) ||
      !is_plain(t.weight_hh, {rows, H}) || (has_c && !is_plain(t.c, of_rank(state_shape))) ||
      (has_bias && !(is_plain(t.bias_ih, {rows}) && is_plain(t.bias_hh, {rows})))) {
    return false;
  }
  const CellKernels* kernels = instruction_set().find(int(cell.kind), CellStorage::kFloat32);
  if (!kernels) return false;
  LayerSizes sizes{};
  sizes.B = B, sizes.I = I, sizes.H = H, sizes.G = cell.gates;
  h_new = at::detail::empty_cpu(t.h.sizes(), at::kFloat);
  if (has_c) c_new = at::detail::empty_cpu(t.h.sizes(), at::kFloat);
  run_step(*kernels, sizes, t, h_new, c_new);
  return true;
}

std::optional<LayerOutputs> stack_at_once(const CellFacts& cell, int64_t directions,
                                          const StackTensors& t) {
  const auto is_absent_or_plain = [](const at::Tensor& x) { return !x.defined() || is_plain(x); };
  bool fits = is_plain(t.input) && t.input.dim() == 3 && t.input.size(0) > 0 &&
              is_absent_or_plain(t.h_0) && is_absent_or_plain(t.c_0) &&
              is_absent_or_plain(t.lengths) && is_absent_or_plain(t.resets) &&
              t.c_0.defined() == (t.h_0.defined() && cell.states == 2);
  for (const auto& layer : t.weights) {
    for (const at::Tensor& weight : layer) fits = fits && is_plain(weight);
  }
  const int64_t count = int64_t(t.weights.size());
  for (const at::Tensor& state : {t.h_0, t.c_0}) {
    fits = fits && (!state.defined() || (state.dim() == 3 && state.size(0) == count * directions));
  }
  if (!fits) return std::nullopt;
  LayerOutputs outputs;
  std::vector<at::Tensor> h_n, c_n;
  at::Tensor input = t.input;
  try {
    for (int64_t i = 0; i < count; ++i) {
      const auto of_layer = [&](const at::Tensor& state) -> OptionalTensor {
        if (!state.defined()) return std::nullopt;
        return count == 1 ? state : state.narrow(0, i * directions, directions);
      };
      const Layer layer =
          check_layer("layer", {cell.name, directions, input, of_layer(t.h_0), of_layer(t.c_0),
                                t.weights[i], t.lengths, t.resets});
      outputs = engine().forward(layer, Keep::kNothing);
      h_n.push_back(outputs.h_n), c_n.push_back(outputs.c_n);
      input = outputs.output;
    }
  } catch (const c10::Error&) {
    return std::nullopt;  // the way through Python finds it too, and says it in the user's words
  }
  if (count > 1) outputs.h_n = at::cat(h_n);
  if (count > 1 && cell.states == 2) outputs.c_n = at::cat(c_n);
  return outputs;
}

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
