#include "recurrent/rowwise/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "recurrent/cpu/packs.h"
#include "recurrent/cpu/sequence.h"
#include "recurrent/rowwise/cpu/kernels/args.h"

namespace fastcells::rowwise {
namespace {

const Kernels& kernels_of(const CellFacts& cell, Storage storage) {
  const Kernels* const kernels = find_kernels(int(cell.kind), storage);
  TORCH_INTERNAL_ASSERT(kernels, "no kernels of ", cell.name);
  return *kernels;
}

Noise noise_of(const DirectionWeights& w) {
  if (!w.noise.defined()) return {};
  const auto* const x = w.noise.const_data_ptr<double>();
  return {x[0], x[1], x[2], x[3], x[4]};
}

// What both passes of a layer share.
class Pass {
 public:
  Pass(const Layer& layer, bool is_training)
      : layer_(layer),
        s_(layer.sizes),
        kernels_(kernels_of(layer.cell, layer.storage)),
        grid_(layer, kernels_.packs, is_training),
        padded_(grid_.padded_units(s_.H)),
        padded_h_(grid_.padded_units(s_.P)),
        gates_(grid_.padded_units(s_.G * s_.H)),
        arithmetic_(layer.input.options().dtype(layer.arithmetic())) {}

 protected:
  at::Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, arithmetic_); }
  // Rows of gates: a vector may be read from the last column on.
  at::Tensor gate_rows(int64_t rows) const {
    return empty({rows * gates_ + kernels_.packs.plain_columns});
  }
  const cpu::Pack& hold(std::shared_ptr<const cpu::Pack> pack) {
    packs_.push_back(std::move(pack));
    return *packs_.back();
  }
  // In the arithmetic type, until the pass ends.
  void* hold(const at::Tensor& tensor) {
    if (!tensor.defined()) return nullptr;
    tensors_.push_back(tensor.to(arithmetic_.dtype()).contiguous());
    return pointer(tensors_.back());
  }
  RowArgs row_args(int64_t d) {
    const DirectionWeights& w = layer_.weights[d];
    RowArgs row{};
    row.norm = w.norm_gates.defined()   ? Norm::kGates
               : layer_.is_normalised() ? Norm::kParts
                                        : Norm::kNone;
    row.noise = noise_of(w);
    row.padded_gates = gates_;
    row.norm_ih = hold(w.norm_ih);
    row.norm_hh = hold(w.norm_gates.defined() ? w.norm_gates : w.norm_hh);
    row.carries_norm = w.norm_carried_c.defined();
    row.norm_c = hold(row.carries_norm ? w.norm_carried_c : w.norm_c);
    row.norm_c_bias = hold(w.norm_c_bias);
    row.unit_weights = hold(w.unit_weights);
    if (row.noise.drops()) {
      tensors_.push_back(empty({s_.B, padded_}));
      row.dropped = pointer(tensors_.back());
    }
    row.second = layer_.is_projected()      ? Second::kProjection
                 : layer_.cell.two_products ? Second::kLastGate
                                            : Second::kNone;
    return row;
  }
  // The rows of a vector or matrix of all gates whose product is with h itself, and those of the
  // last gate where that has a product of its own.
  at::Tensor rows_of_h(const at::Tensor& all) const {
    return layer_.cell.two_products && all.defined() ? all.narrow(0, 0, (s_.G - 1) * s_.H) : all;
  }
  at::Tensor rows_of_last(const at::Tensor& all) const {
    return all.defined() ? all.narrow(0, (s_.G - 1) * s_.H, s_.H) : all;
  }
  at::Tensor second_weight(const DirectionWeights& w) const {
    return layer_.is_projected() ? w.weight_hr : rows_of_last(w.weight_hh);
  }
  // Packed columns of both weights, and their biases.
  void set_panels(cpu::LayerArgs& a, const DirectionWeights& w) {
    const cpu::Pack& of_input =
        hold(cpu::pack_gates(kernels_.packs, 1, w.weight_ih, {}, w.bias_ih));
    a.panels_ih = of_input.panels.get(), a.bias_ih = of_input.bias.get();
    const cpu::Pack& of_state =
        hold(cpu::pack_gates(kernels_.packs, 1, rows_of_h(w.weight_hh), {}, rows_of_h(w.bias_hh)));
    a.panels_hh = of_state.panels.get(), a.bias_hh = of_state.bias.get();
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const Kernels& kernels_;
  cpu::Grid grid_;
  const int64_t padded_, padded_h_, gates_;  // units, those of h, columns of gates: whole panels
  const at::TensorOptions arithmetic_;

 private:
  std::vector<std::shared_ptr<const cpu::Pack>> packs_;
  std::vector<at::Tensor> tensors_;
};

class ForwardPass : Pass {
 public:
  ForwardPass(const Layer& layer, Keep keep) : Pass(layer, keep != Keep::kNothing) {}

  void run(const LayerOutputs& out) {
    const int64_t groups = grid_.plan().row_groups, frames = grid_.plan().forward_frames;
    std::vector<at::Tensor> scratch;
    const auto take = [&](at::Tensor tensor) {
      scratch.push_back(std::move(tensor));
      return pointer(scratch.back());
    };
    std::vector<ForwardArgs> args(s_.D);
    for (int64_t d = 0; d < s_.D; ++d) {
      ForwardArgs& a = args[d];
      static_cast<cpu::LayerArgs&>(a) = grid_.arguments(layer_, d);
      set_panels(a, layer_.weights[d]);
      a.row = row_args(d);
      a.chunk_frames = frames;
      a.output = pointer(out.output, d * s_.P), a.cells = pointer(out.cells, d * s_.c());
      a.h_n = pointer(out.h_n, d * s_.B * s_.P), a.c_n = pointer(out.c_n, d * s_.B * s_.c());
      a.saved = pointer(out.saved, d * s_.T * s_.B * a.saved_stride);
      a.carry_h = take(empty({s_.B, padded_h_}));
      if (s_.N > 0) a.carry_c = take(empty({s_.B, s_.N, padded_}));
      if (a.row.dropped) a.carry_dropped = take(empty({s_.B, padded_}));
      if (a.row.norm_c) a.new_c = take(empty({2, s_.B, padded_}));
      a.x_gates = take(gate_rows(groups * frames));
      a.x_moments = take(empty({groups * frames, 2}));
      a.h_gates = take(gate_rows(s_.B));
      if (a.row.second != Second::kNone) {
        set_second(a, layer_.weights[d]);
        a.operand = take(empty({s_.B, padded_})), a.product = take(empty({s_.B, padded_h_}));
      }
    }
    grid_.run(kernels_.forward_scratch(args[0]),
              [&](int d, const cpu::Place& place) { kernels_.forward(args[d], place); });
  }

 private:
  void set_second(ForwardArgs& a, const DirectionWeights& w) {
    const at::Tensor bias = layer_.is_projected() ? at::Tensor() : rows_of_last(w.bias_hh);
    const cpu::Pack& pack = hold(cpu::pack_gates(kernels_.packs, 1, second_weight(w), {}, bias));
    a.panels_second = pack.panels.get(), a.bias_second = pack.bias.get();
  }
};

class BackwardPass : Pass {
 public:
  BackwardPass(const Layer& layer, const LayerOutputs& outputs, const LayerGradients& grads,
               const LayerNeeds& needs)
      : Pass(layer, true), outputs_(outputs), grads_(grads), needs_(needs) {
    for (int team = 0; team < grid_.plan().direction_teams; ++team) {
      teams_.push_back(make_buffers());
      // Where two teams run at once each has an input gradient of its own; else the second one
      // adds.
      if (needs.input) d_input_.push_back(at::zeros({s_.T, s_.B, s_.I}, arithmetic_));
    }
    if (needs.h_0) d_h_0_ = empty({s_.D, s_.B, s_.P});
    if (needs.c_0) d_c_0_ = empty({s_.D, s_.B, s_.c()});
    for (int64_t d = 0; d < s_.D; ++d) args_.push_back(arguments(d));
  }

  InputGradients run() {
    grid_.run(kernels_.backward_scratch(args_[0]),
              [&](int d, const cpu::Place& place) { kernels_.backward(args_[d], place); });
    const auto storage = layer_.input.scalar_type();
    const auto stored = [&](const at::Tensor& x) { return x.defined() ? x.to(storage) : x; };
    InputGradients result;
    if (needs_.input) {
      at::Tensor sum = d_input_[0];
      if (d_input_.size() == 2) sum.add_(d_input_[1]);
      result.input = stored(sum);
    }
    result.h_0 = stored(d_h_0_), result.c_0 = stored(d_c_0_);
    for (int64_t d = 0; d < s_.D; ++d) {
      add_gradients_of_units(d);
      for_each_weight(d_weights_[d], [&](const char*, at::Tensor& x) { x = stored(x); });
      result.weights.push_back(d_weights_[d]);
    }
    return result;
  }

 private:
  // Of one team of threads, for one direction after another.
  struct Buffers {
    at::Tensor carry_dh, carry_dc, dx_gates, dg_gates, dg_raw, raw_again, moments, c_rows;
    at::Tensor plain_x, plain_h, d_operand, d_projected, plain_operand;
  };
  Buffers make_buffers() const {
    const int64_t frames = grid_.plan().backward_frames, columns = s_.G * s_.H;
    Buffers b;
    b.carry_dh = empty({s_.B, padded_h_});
    if (s_.N > 0) b.carry_dc = empty({s_.B, s_.N, padded_});
    b.dx_gates = empty({frames, columns});
    b.dg_gates = layer_.cell.additive ? b.dx_gates : empty({frames, columns});
    b.dg_raw = layer_.is_normalised() ? empty({frames, columns}) : b.dg_gates;
    if (!outputs_.saved.defined()) b.raw_again = gate_rows(2 * frames);
    b.moments = empty({frames, 8});
    if (layer_.normalises_c()) b.c_rows = empty({s_.B, layer_.cell.saved + 3, padded_});
    b.plain_x = empty({grid_.padded_units(s_.I), frames});
    b.plain_h = empty({padded_h_, frames});
    if (layer_.is_projected()) b.d_projected = empty({frames, s_.P});
    if (layer_.has_second_product()) {
      b.d_operand = empty({s_.B, padded_}), b.plain_operand = empty({padded_, frames});
    }
    return b;
  }
  BackwardArgs arguments(int64_t d) {
    const DirectionWeights& w = layer_.weights[d];
    BackwardArgs a{};
    static_cast<cpu::LayerArgs&>(a) = grid_.arguments(layer_, d);
    a.row = row_args(d);
    a.chunk_frames = grid_.plan().backward_frames;
    a.output = pointer(outputs_.output, d * s_.P), a.cells = pointer(outputs_.cells, d * s_.c());
    a.saved = pointer(outputs_.saved, d * s_.T * s_.B * a.saved_stride);
    a.d_output = pointer(grads_.output, d * s_.P), a.d_cells = pointer(grads_.cells, d * s_.c());
    a.d_h_n = pointer(grads_.h_n, d * s_.B * s_.P),
    a.d_c_n = pointer(grads_.c_n, d * s_.B * s_.c());
    a.d_h_0 = pointer(d_h_0_, d * s_.B * s_.P), a.d_c_0 = pointer(d_c_0_, d * s_.B * s_.c());
    if (outputs_.saved.defined()) {
      a.bias_ih = hold(w.bias_ih), a.bias_hh = hold(w.bias_hh);
    } else {
      set_panels(a, w);
    }
    a.plain_hh = hold(cpu::pack_plain(kernels_.packs, rows_of_h(w.weight_hh))).panels.get();
    if (a.row.second != Second::kNone) {
      a.plain_second = hold(cpu::pack_plain(kernels_.packs, second_weight(w))).panels.get();
    }
    const size_t team = size_t(d) % teams_.size();
    if (needs_.input) {
      a.plain_ih = hold(cpu::pack_plain(kernels_.packs, w.weight_ih)).panels.get();
      a.d_input = pointer(d_input_[team]), a.add_to_d_input = size_t(d) >= d_input_.size();
    }
    set_gradients(a, d);
    const Buffers& b = teams_[team];
    a.carry_dh = pointer(b.carry_dh), a.carry_dc = pointer(b.carry_dc);
    a.dx_gates = pointer(b.dx_gates), a.dg_gates = pointer(b.dg_gates);
    a.dg_raw = pointer(b.dg_raw), a.raw_again = pointer(b.raw_again);
    a.moments = pointer(b.moments), a.c_rows = pointer(b.c_rows);
    a.plain_x = pointer(b.plain_x), a.plain_h = pointer(b.plain_h);
    a.d_operand = pointer(b.d_operand), a.d_projected = pointer(b.d_projected);
    a.plain_operand = pointer(b.plain_operand);
    return a;
  }
  void set_gradients(BackwardArgs& a, int64_t d) {
    DirectionWeights weights = layer_.weights[d], found;
    PerWeight<bool> needs = needs_.weights[d];
    for_each_weight(weights, [&](const std::string_view name, const at::Tensor& weight) {
      if (*find_weight(needs, name) && !name.starts_with("norm_c") && name != "unit_weights") {
        *find_weight(found, name) = at::zeros(weight.sizes(), arithmetic_);
      }
    });
    a.d_weight_ih = pointer(found.weight_ih), a.d_weight_hh = pointer(found.weight_hh);
    a.d_bias_ih = pointer(found.bias_ih), a.d_bias_hh = pointer(found.bias_hh);
    a.d_weight_hr = pointer(found.weight_hr);
    a.d_norm_ih = pointer(found.norm_ih);
    a.d_norm_hh = pointer(found.norm_gates.defined() ? found.norm_gates : found.norm_hh);
    d_weights_.push_back(found);
    // Of vectors of one value a unit: each group's own sum.
    const auto sums = [&](int64_t vectors) {
      if (vectors == 0) return at::Tensor();
      return at::zeros({grid_.plan().row_groups, vectors, padded_}, arithmetic_);
    };
    d_norm_c_.push_back(sums(a.row.norm_c ? 2 : 0));
    d_units_.push_back(sums(layer_.cell.unit_weights));
    a.d_norm_c = pointer(d_norm_c_.back()), a.d_units = pointer(d_units_.back());
  }
  void add_gradients_of_units(int64_t d) {
    if (d_units_[d].defined() && needs_.weights[d].unit_weights) {
      d_weights_[d].unit_weights = d_units_[d].sum(0).narrow(1, 0, s_.H).reshape(-1);
    }
    if (!d_norm_c_[d].defined()) return;
    const at::Tensor sums = d_norm_c_[d].sum(0).narrow(1, 0, s_.H);
    const PerWeight<bool>& needs = needs_.weights[d];
    DirectionWeights& found = d_weights_[d];
    if (needs.norm_c) found.norm_c = sums.select(0, 0).contiguous();
    if (needs.norm_carried_c) found.norm_carried_c = sums.select(0, 0).contiguous();
    if (needs.norm_c_bias) found.norm_c_bias = sums.select(0, 1).contiguous();
  }

  const LayerOutputs& outputs_;
  const LayerGradients& grads_;
  const LayerNeeds& needs_;
  std::vector<Buffers> teams_;
  std::vector<BackwardArgs> args_;
  std::vector<at::Tensor> d_input_, d_norm_c_, d_units_;
  std::vector<DirectionWeights> d_weights_;
  at::Tensor d_h_0_, d_c_0_;
};

bool is_empty(const LayerSizes& s) { return s.T * s.B * s.H == 0; }

class RowwiseEngine final : public Engine {
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
    if (is_empty(layer.sizes)) return nothing_back(layer, grads, needs);
    if (outputs.saved.defined() || !layer.has_second_product()) {
      return BackwardPass(layer, outputs, grads, needs).run();
    }
    // What a second product takes is not computed again chunk by chunk.
    LayerOutputs completed = outputs;
    completed.saved = forward(layer, Keep::kEverything).saved;
    return BackwardPass(layer, completed, grads, needs).run();
  }
};

}  // namespace

const Engine& engine() {
  static const RowwiseEngine engine;
  return engine;
}

Choice explain(const CellFacts& cell, Storage storage, const LayerSizes& sizes, bool is_training) {
  if (is_empty(sizes)) return {"rowwise", "", "there is nothing to compute"};
  const cpu::CellKernels& packs = kernels_of(cell, storage).packs;
  const cpu::Plan plan = cpu::plan_layer(packs, cell, storage, sizes, is_training);
  return {"rowwise", std::string(packs.instruction_set) + ", " + describe(plan, is_training), ""};
}

}  // namespace fastcells::rowwise
