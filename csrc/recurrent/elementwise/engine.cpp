#include "recurrent/elementwise/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "checks.h"
#include "cpu/instruction_set.h"
#include "cpu/memory.h"
#include "cpu/team.h"
#include "recurrent/cpu/packs.h"
#include "recurrent/elementwise/cpu/kernels/args.h"
#include "recurrent/elementwise/cpu/plan.h"

namespace fastcells::elementwise {
namespace {

thread_local cpu::Workspace workspace;

const Kernels& kernels_of(const CellFacts& cell, Storage storage) {
  const Kernels* const kernels = find_kernels(int(cell.kind) - Cells::kCount, storage);
  TORCH_INTERNAL_ASSERT(kernels, "no kernels of ", cell.name);
  return *kernels;
}

Plan plan_of(const Kernels& kernels, const CellFacts& cell, Storage storage, const LayerSizes& s,
             bool is_training) {
  const int bytes = storage == Storage::kFloat64 ? sizeof(double) : sizeof(float);
  return plan({cell.gates, int(s.D), bytes, kernels.packs.panel_units, kernels.packs.panel_vectors,
               kernels.packs.lanes, s.T, s.B, s.I, s.H, is_training},
              cpu::available_threads(), cpu::cache_bytes());
}

bool is_empty(const LayerSizes& s) { return s.T * s.B * s.H == 0; }

// One layer's pass: what both directions share, and each one's weights in the kernels' form.
class Pass {
 public:
  Pass(const Layer& layer, bool is_training)
      : layer_(layer),
        s_(layer.sizes),
        kernels_(kernels_of(layer.cell, layer.storage)),
        plan_(plan_of(kernels_, layer.cell, layer.storage, s_, is_training)),
        arithmetic_(layer.input.options().dtype(layer.arithmetic())) {
    const int64_t units = kernels_.packs.panel_units;
    padded_ = (s_.H + units - 1) / units * units;
  }

 protected:
  at::Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, arithmetic_); }
  at::Tensor hold(at::Tensor tensor) {
    held_.push_back(tensor);
    return tensor;
  }
  const cpu::Pack& hold(std::shared_ptr<const cpu::Pack> pack) {
    packs_.push_back(std::move(pack));
    return *packs_.back();
  }
  // `needs_gates`: the products of the input are computed.
  WalkArgs arguments(int64_t d, int64_t chunk_steps, bool needs_gates) {
    const DirectionWeights& w = layer_.weights[d];
    const Rows rows = layer_.rows(d);
    WalkArgs a{};
    a.cell = &kernels_.cell;
    a.T = s_.T, a.B = s_.B, a.I = s_.I, a.H = s_.H, a.padded_H = padded_;
    a.block_rows = plan_.block_rows, a.chunk_steps = chunk_steps;
    a.reverse = rows.reverse, a.lengths = rows.lengths, a.resets = rows.resets;
    a.input = pointer(layer_.input), a.raw_column = layer_.raw_column(d);
    a.h_0 = pointer(layer_.h_0, d * s_.B * s_.H), a.c_0 = pointer(layer_.c_0, d * s_.B * s_.c());
    a.output_stride = s_.D * s_.H, a.cells_stride = s_.D * s_.c(), a.saved_stride = s_.saved * s_.H;
    if (w.weight_hh.defined()) {
      const at::Tensor units = hold(empty({layer_.cell.unit_weights, padded_}));
      kernels_.prepare(pointer(w.weight_hh), s_.H, padded_, pointer(units));
      a.unit_weights = pointer(units);
    }
    if (w.skip_scale.defined()) {
      const at::Tensor scale = hold(at::zeros({padded_}, arithmetic_));
      scale.narrow(0, 0, s_.H).copy_(w.skip_scale);
      a.skip_scale = pointer(scale);
    }
    if (needs_gates && s_.T == 1) {
      a.own_weight = pointer(w.weight_ih), a.own_bias = pointer(w.bias_ih);
    } else if (needs_gates) {
      const cpu::Pack& pack =
          hold(cpu::pack_gates(kernels_.packs, int(s_.G), w.weight_ih, {}, w.bias_ih));
      a.panels = pack.panels.get(), a.bias = pack.bias.get();
    }
    return a;
  }
  // body(direction, share) of each thread, one direction after the other.
  template <class Body>
  void run(std::size_t scratch_bytes, const Body& body) const {
    const int most = plan_.threads();
    const bool is_alone = most > 1 && cpu::threads_now(most, plan_.seconds_alone) == 1;
    const int unit_threads = is_alone ? 1 : plan_.unit_threads;
    const int row_threads = is_alone ? 1 : plan_.row_threads, threads = unit_threads * row_threads;
    cpu::Barrier barrier;
    barrier.threads = threads;
    char* const scratch = workspace.at_least(scratch_bytes * threads);
    cpu::run_team(threads, [&](int thread) {
      const Share share{thread % unit_threads,
                        unit_threads,
                        thread / unit_threads,
                        row_threads,
                        thread,
                        threads,
                        &barrier,
                        scratch + scratch_bytes * thread};
      for (int64_t d = 0; d < s_.D; ++d) body(d, share);
    });
    workspace.trim();
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const Kernels& kernels_;
  const Plan plan_;
  const at::TensorOptions arithmetic_;
  int64_t padded_;  // units, to whole panels

 private:
  std::vector<at::Tensor> held_;
  std::vector<std::shared_ptr<const cpu::Pack>> packs_;
};

class ForwardPass : Pass {
 public:
  ForwardPass(const Layer& layer, Keep keep) : Pass(layer, keep != Keep::kNothing) {}

  void run(const LayerOutputs& out) {
    const at::Tensor carry_h = empty({s_.B, padded_});
    const at::Tensor carry_c = s_.N > 0 ? empty({s_.B, s_.N, padded_}) : at::Tensor();
    std::vector<ForwardArgs> args(s_.D);
    for (int64_t d = 0; d < s_.D; ++d) {
      ForwardArgs& a = args[d];
      static_cast<WalkArgs&>(a) = arguments(d, plan_.forward_steps, true);
      a.output = pointer(out.output, d * s_.H), a.cells = pointer(out.cells, d * s_.c());
      a.h_n = pointer(out.h_n, d * s_.B * s_.H), a.c_n = pointer(out.c_n, d * s_.B * s_.c());
      a.saved = pointer(out.saved, d * s_.T * s_.B * a.saved_stride);
      a.carry_h = pointer(carry_h), a.carry_c = pointer(carry_c);
    }
    Pass::run(kernels_.forward_scratch(args[0]),
              [&](int64_t d, const Share& share) { kernels_.forward(args[d], share); });
  }
};

class BackwardPass : Pass {
 public:
  BackwardPass(const Layer& layer, const LayerOutputs& outputs, const LayerGradients& grads,
               const LayerNeeds& needs)
      : Pass(layer, true), outputs_(outputs), grads_(grads), needs_(needs) {
    const int64_t frames = s_.B * plan_.backward_steps, blocks = divide_up(s_.B, plan_.block_rows);
    const int64_t columns = kernels_.packs.plain_columns;
    carry_dh_ = empty({s_.B, padded_});
    if (s_.N > 0) carry_dc_ = empty({s_.B, s_.N, padded_});
    dx_gates_ = empty({frames, s_.G * s_.H});
    plain_x_ = empty({divide_up(s_.I, columns) * columns, frames});
    d_units_ = at::zeros({s_.D, blocks, layer.cell.unit_weights + 1, padded_}, arithmetic_);
    if (layer.cell.reads_input) d_raw_ = at::zeros({s_.D, frames, s_.I}, arithmetic_);
    // Rows that do not exist are written by nobody, and nothing is where there is no frame.
    if (needs.input) d_input_ = at::zeros({s_.T, s_.B, s_.I}, arithmetic_);
    if (needs.h_0) d_h_0_ = empty({s_.D, s_.B, s_.H});
    if (needs.c_0) d_c_0_ = empty({s_.D, s_.B, s_.c()});
    for (int64_t d = 0; d < s_.D; ++d) args_.push_back(arguments_of(d));
  }

  InputGradients run() {
    Pass::run(kernels_.backward_scratch(args_[0]),
              [&](int64_t d, const Share& share) { kernels_.backward(args_[d], share); });
    const auto storage = layer_.input.scalar_type();
    const auto stored = [&](const at::Tensor& x) { return x.defined() ? x.to(storage) : x; };
    InputGradients result;
    result.input = stored(d_input_), result.h_0 = stored(d_h_0_), result.c_0 = stored(d_c_0_);
    for (int64_t d = 0; d < s_.D; ++d) {
      DirectionWeights& w = d_weights_[d];
      w.weight_ih = stored(w.weight_ih), w.bias_ih = stored(w.bias_ih);
      add_unit_gradients(d, w);
      result.weights.push_back(w);
    }
    return result;
  }

 private:
  static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

  BackwardArgs arguments_of(int64_t d) {
    const PerWeight<bool>& needs = needs_.weights[d];
    BackwardArgs a{};
    static_cast<WalkArgs&>(a) = arguments(d, plan_.backward_steps, !outputs_.saved.defined());
    a.output = pointer(outputs_.output, d * s_.H), a.cells = pointer(outputs_.cells, d * s_.c());
    a.saved = pointer(outputs_.saved, d * s_.T * s_.B * a.saved_stride);
    a.d_output = pointer(grads_.output, d * s_.H), a.d_cells = pointer(grads_.cells, d * s_.c());
    a.d_h_n = pointer(grads_.h_n, d * s_.B * s_.H),
    a.d_c_n = pointer(grads_.c_n, d * s_.B * s_.c());
    a.d_h_0 = pointer(d_h_0_, d * s_.B * s_.H), a.d_c_0 = pointer(d_c_0_, d * s_.B * s_.c());
    a.d_input = pointer(d_input_), a.add_to_d_input = d > 0;
    if (needs_.input) {
      a.plain = hold(cpu::pack_plain(kernels_.packs, layer_.weights[d].weight_ih)).panels.get();
    }
    DirectionWeights g;
    if (needs.weight_ih) g.weight_ih = at::zeros({s_.G * s_.H, s_.I}, arithmetic_);
    if (needs.bias_ih) g.bias_ih = at::zeros({s_.G * s_.H}, arithmetic_);
    a.d_weight_ih = pointer(g.weight_ih), a.d_bias_ih = pointer(g.bias_ih);
    d_weights_.push_back(g);
    a.d_unit_weights = pointer(d_units_, d * d_units_.stride(0));
    if (d_raw_.defined()) a.d_raw = pointer(d_raw_, d * d_raw_.stride(0));
    a.carry_dh = pointer(carry_dh_), a.carry_dc = pointer(carry_dc_);
    a.dx_gates = pointer(dx_gates_), a.plain_x = pointer(plain_x_);
    return a;
  }
  void add_unit_gradients(int64_t d, DirectionWeights& grads) const {
    const PerWeight<bool>& needs = needs_.weights[d];
    const at::Tensor sums = d_units_.select(0, d).sum(0);  // over the blocks of rows
    const auto storage = layer_.input.scalar_type();
    if (needs.weight_hh && layer_.cell.unit_weights > 0) {
      const at::Tensor found = empty({layer_.cell.unit_weights * s_.H});
      kernels_.prepare_grad(pointer(layer_.weights[d].weight_hh), pointer(sums), s_.H, padded_,
                            pointer(found));
      grads.weight_hh = found.to(storage);
    }
    if (needs.skip_scale && layer_.cell.reads_input) {
      grads.skip_scale = sums.select(0, layer_.cell.unit_weights)
                             .narrow(0, 0, s_.H)
                             .to(storage, /*non_blocking=*/false, /*copy=*/true);
    }
  }

  const LayerOutputs& outputs_;
  const LayerGradients& grads_;
  const LayerNeeds& needs_;
  at::Tensor carry_dh_, carry_dc_, dx_gates_, plain_x_, d_units_, d_raw_;
  at::Tensor d_input_, d_h_0_, d_c_0_;
  std::vector<DirectionWeights> d_weights_;
  std::vector<BackwardArgs> args_;
};

class ElementwiseEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    LayerOutputs outputs = empty_outputs(layer, keep);
    if (is_empty(layer.sizes)) {
      pass_states(layer.h_0, outputs.h_n), pass_states(layer.c_0, outputs.c_n);
    } else {
      ForwardPass(layer, keep).run(outputs);
    }
    return outputs;
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    if (!is_empty(layer.sizes)) return BackwardPass(layer, outputs, grads, needs).run();
    return nothing_back(layer, grads, needs);
  }
};

}  // namespace

const Engine& engine() {
  static const ElementwiseEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes) {
  if (is_empty(sizes)) return {"elementwise", "", "there is nothing to compute"};
  const Kernels& kernels = kernels_of(cell, storage);
  return {"elementwise",
          std::string(kernels.packs.instruction_set) + ", " +
              describe(plan_of(kernels, cell, storage, sizes, false)),
          ""};
}

void pack(const CellFacts& cell, const at::Tensor& weight, const at::Tensor& bias) {
  const Storage storage = storage_of("freeze", weight.scalar_type());
  cpu::pack_gates(kernels_of(cell, storage).packs, cell.gates, weight, {}, bias);
}

}  // namespace fastcells::elementwise
