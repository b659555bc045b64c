#include "recurrent/cuda/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "recurrent/compiled/cuda/kernels.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/cuda/launch.h"
#include "recurrent/elementwise/cuda/engine.h"
#include "recurrent/gate_gradients.h"
#include "recurrent/rowwise/cuda/engine.h"
#include "recurrent/stepwise/stages.h"
#include "recurrent/stepwise/stepwise.h"

namespace fastcells::cuda {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

class CudaStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    int error = 0;
    if (knows_no_cell(stage)) {
      error = launch_step_forward_any(stage, layer.storage, args, stream());
    } else if (compiled::is_compiled(layer.cell.kind)) {
      error = compiled::launch(layer.cell.kind, layer.storage, args, stream());
    } else {
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        error = launch_step_forward<typename decltype(cell)::type>(stage, layer.storage, args,
                                                                   stream());
      });
    }
    C10_CUDA_CHECK(static_cast<cudaError_t>(error));
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    int error = 0;
    if (knows_no_cell(stage)) {
      error = launch_step_backward_any(stage, layer.storage, args, stream());
    } else if (compiled::is_compiled(layer.cell.kind)) {
      error = compiled::launch(layer.cell.kind, layer.storage, args, stream());
    } else {
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        error = launch_step_backward<typename decltype(cell)::type>(stage, layer.storage, args,
                                                                    stream());
      });
    }
    C10_CUDA_CHECK(static_cast<cudaError_t>(error));
  }
  at::ScalarType operand(const Layer& layer) const override { return layer.input.scalar_type(); }
};

Device read_device(int number) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, number));
    return value;
  };
  Device device{};
  device.compute = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
                   attribute(cudaDevAttrComputeCapabilityMinor);
  device.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  device.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  device.cluster_blocks = device.compute >= 90 ? largest_cluster(device.shared_bytes) : 1;
  return device;
}
// Read once: a call asks for it twice, and the largest cluster takes longer to find than a step.
Device current_device() {
  static std::mutex mutex;
  static std::map<int, Device> known;
  int number = 0;
  C10_CUDA_CHECK(cudaGetDevice(&number));
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(number);
  if (found != known.end()) return found->second;
  return known[number] = read_device(number);
}

Plan plan_layer(const CellFacts& cell, Storage storage, const LayerSizes& s, bool is_projected,
                bool is_backward) {
  Problem problem{};
  problem.gates = cell.gates, problem.states = cell.states;
  problem.two_products = cell.two_products, problem.is_projected = is_projected;
  problem.storage_bytes = element_bytes(storage);
  problem.directions = int(s.D);
  problem.T = s.T, problem.B = s.B, problem.H = s.H;
  problem.is_backward = is_backward, problem.is_compiled = compiled::is_compiled(cell.kind);
  return plan(problem, current_device());
}
Plan plan_layer(const Layer& layer, bool is_backward) {
  return plan_layer(layer.cell, layer.storage, layer.sizes, layer.is_projected(), is_backward);
}

std::string reasons(const Plan& plan) {
  std::string text;
  for (const std::string& reason : plan.why_not) text += (text.empty() ? "" : "; ") + reason;
  return text;
}

// The layer's products around the sequence kernels, and their arguments.
class SequencePass {
 public:
  explicit SequencePass(const Layer& layer) : layer_(layer), s_(layer.sizes) {}

  LayerOutputs forward(Keep keep, const Plan& plan) {
    LayerOutputs outputs = empty_outputs(layer_, keep);
    const at::Tensor x = operand_rows(layer_, layer_.input.scalar_type());
    auto args = arguments<SequenceForwardArgs>();
    for (int64_t d = 0; d < s_.D; ++d) {
      const DirectionWeights& w = layer_.weights[d];
      SequenceDirection& a = args.directions[d];
      a.x_gates = static_cast<const float*>(pointer(kept(product(x, w.weight_ih.t(), at::kFloat))));
      a.weight_hh = pointer(w.weight_hh);
      a.bias_ih = float_pointer(w.bias_ih), a.bias_hh = float_pointer(w.bias_hh);
      a.h_0 = pointer(layer_.h_0, d * s_.B * s_.H), a.c_0 = pointer(layer_.c_0, d * s_.B * s_.H);
      a.output = pointer(outputs.output, d * s_.H);
      a.h_n = pointer(outputs.h_n, d * s_.B * s_.H), a.c_n = pointer(outputs.c_n, d * s_.B * s_.H);
      a.cells = static_cast<float*>(pointer(outputs.cells, d * s_.H));
      a.saved = pointer(outputs.saved, d * s_.T * s_.B * args.saved_stride);
      a.exchange = exchange(plan);
      a.reverse = layer_.rows(d).reverse;
    }
    launch([&](auto cell) {
      return launch_sequence_forward<typename decltype(cell)::type>(layer_.storage, plan, int(s_.D),
                                                                    args, stream());
    });
    return outputs;
  }

  InputGradients backward(const LayerOutputs& outputs, const LayerGradients& grads,
                          const LayerNeeds& needs, const Plan& plan, const StepKernels& kernels) {
    auto args = arguments<SequenceBackwardArgs>();
    const auto storage = layer_.input.options();
    std::vector<GateGradients> gates(s_.D);
    const at::Tensor d_h_0 = at::empty({s_.D, s_.B, s_.H}, storage.dtype(at::kFloat));
    const at::Tensor d_c_0 = layer_.cell.states == 2 ? at::empty_like(d_h_0) : at::Tensor();
    for (int64_t d = 0; d < s_.D; ++d) {
      GateGradients& g = gates[d];
      g.dx_gates = at::empty({s_.T * s_.B, s_.G * s_.H}, storage);
      g.dg_gates = layer_.cell.additive ? g.dx_gates : at::empty_like(g.dx_gates);
      SequenceBackwardDirection& a = args.directions[d];
      const at::Tensor gates_of_w = layer_.weights[d].weight_hh.view({s_.G, s_.H, s_.H});
      a.weight_hh_t = pointer(kept(gates_of_w.transpose(1, 2).contiguous()));
      a.saved = pointer(outputs.saved, d * s_.T * s_.B * args.saved_stride);
      a.output = pointer(outputs.output, d * s_.H);
      a.cells = static_cast<const float*>(pointer(outputs.cells, d * s_.H));
      a.h_0 = pointer(layer_.h_0, d * s_.B * s_.H), a.c_0 = pointer(layer_.c_0, d * s_.B * s_.H);
      a.d_output = pointer(grads.output, d * s_.H);
      a.d_cells = static_cast<const float*>(pointer(grads.cells, d * s_.H));
      a.d_h_n = pointer(grads.h_n, d * s_.B * s_.H), a.d_c_n = pointer(grads.c_n, d * s_.B * s_.H);
      a.dx_gates = pointer(g.dx_gates);
      a.dg_gates = layer_.cell.additive ? nullptr : pointer(g.dg_gates);
      a.d_h_0 = static_cast<float*>(pointer(d_h_0, d * s_.B * s_.H));
      a.d_c_0 = static_cast<float*>(pointer(d_c_0, d * s_.B * s_.H));
      a.exchange = exchange(plan);
      a.reverse = layer_.rows(d).reverse;
    }
    launch([&](auto cell) {
      return launch_sequence_backward<typename decltype(cell)::type>(layer_.storage, plan,
                                                                     int(s_.D), args, stream());
    });
    InputGradients result = collect_gate_gradients(layer_, outputs, needs, kernels, gates);
    if (needs.h_0) result.h_0 = d_h_0.to(storage.dtype());
    if (needs.c_0) result.c_0 = d_c_0.to(storage.dtype());
    return result;
  }

 private:
  // What both ways have: sizes, masks, strides.
  template <class Args>
  Args arguments() const {
    Args args{};
    args.T = s_.T, args.B = s_.B, args.H = s_.H;
    args.lengths = layer_.rows(0).lengths, args.resets = layer_.rows(0).resets;
    args.output_stride = args.cells_stride = s_.D * s_.H, args.saved_stride = s_.saved * s_.H;
    return args;
  }
  // f(TypeTag<Cell>), the launcher of the layer's cell; the plan lets no cell of two products here.
  template <class F>
  void launch(const F& f) const {
    dispatch_cell(layer_.cell.kind, [&](auto cell) {
      if constexpr (!decltype(cell)::type::kTwoProducts) {
        C10_CUDA_CHECK(static_cast<cudaError_t>(f(cell)));
      }
    });
  }
  // What the blocks of one direction of a grid exchange: buffers, then counters.
  SequenceExchange exchange(const Plan& plan) {
    if (plan.tier != Tier::kGrid) return {};
    const at::Tensor& zeros = kept(at::zeros({plan.exchange_bytes / 4 + plan.counter_words},
                                             layer_.input.options().dtype(at::kInt)));
    int* const first = zeros.data_ptr<int>();
    return {first, reinterpret_cast<unsigned*>(first + plan.exchange_bytes / 4)};
  }
  // Lives as long as this: torch's allocator hands memory on in the order of the stream.
  const at::Tensor& kept(at::Tensor tensor) {
    kept_.push_back(std::move(tensor));
    return kept_.back();
  }
  const float* float_pointer(const at::Tensor& tensor) {
    if (!tensor.defined()) return nullptr;
    return static_cast<const float*>(pointer(kept(tensor.to(at::kFloat))));
  }

  const Layer& layer_;
  const LayerSizes& s_;
  std::vector<at::Tensor> kept_;
};

class CudaEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    if (layer.cell.is_elementwise) return elementwise::cuda_engine().forward(layer, keep);
    if (layer.is_rowwise()) return rowwise::cuda_engine().forward(layer, keep);
    const Plan plan = plan_layer(layer, /*is_backward=*/false);
    if (plan.tier == Tier::kStepwise) return stepwise_.forward(layer, keep);
    return SequencePass(layer).forward(keep, plan);
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    if (layer.cell.is_elementwise) {
      return elementwise::cuda_engine().backward(layer, outputs, grads, needs);
    }
    if (layer.is_rowwise()) return rowwise::cuda_engine().backward(layer, outputs, grads, needs);
    const Plan plan = plan_layer(layer, /*is_backward=*/true);
    if (plan.tier == Tier::kStepwise) return stepwise_.backward(layer, outputs, grads, needs);
    LayerOutputs complete = outputs;
    if (!complete.saved.defined()) complete.saved = forward(layer, Keep::kEverything).saved;
    return SequencePass(layer).backward(complete, grads, needs, plan, kernels_);
  }

 private:
  const CudaStepKernels kernels_;
  const StepwiseEngine stepwise_{kernels_};
};

}  // namespace

const Engine& engine() {
  static const CudaEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_projected,
               bool is_training, bool is_rowwise) {
  if (cell.is_elementwise) return {"elementwise", "", ""};
  if (is_rowwise) return {"rowwise", "", ""};
  const Plan forward = plan_layer(cell, storage, sizes, is_projected, /*is_backward=*/false);
  if (forward.tier == Tier::kStepwise) return {"stepwise", "", reasons(forward)};
  std::string text = describe(forward), why = reasons(forward);
  if (is_training) {
    const Plan backward = plan_layer(cell, storage, sizes, is_projected, /*is_backward=*/true);
    text += "; back: " + describe(backward);
    if (!backward.why_not.empty()) why += (why.empty() ? "back: " : "; back: ") + reasons(backward);
  }
  return {"sequence", text, why};
}

}  // namespace fastcells::cuda
