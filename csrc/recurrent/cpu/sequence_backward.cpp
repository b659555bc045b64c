#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "recurrent/cpu/packs.h"
#include "recurrent/cpu/sequence.h"

namespace fastcells::cpu {
namespace {

// Buffers of one team of threads, for one direction after another.
struct TeamBuffers {
  at::Tensor carry_dh, carry_dc, dx_gates, dg_gates, saved_again, plain_x, plain_h;
};

// What the way back of one layer needs and gives, all in the arithmetic type.
class BackwardPass {
 public:
  BackwardPass(const Layer& layer, const LayerOutputs& outputs, const LayerGradients& grads,
               const LayerNeeds& needs, const CellKernels& kernels)
      : layer_(layer),
        s_(layer.sizes),
        outputs_(outputs),
        grads_(grads),
        needs_(needs),
        kernels_(kernels),
        grid_(layer, kernels, /*is_training=*/true),
        arithmetic_(layer.input.options().dtype(layer.arithmetic())) {
    for (int team = 0; team < grid_.plan().direction_teams; ++team)
      buffers_.push_back(make_buffers());
    if (needs.h_0) d_h_0_ = at::empty({s_.D, s_.B, s_.H}, arithmetic_);
    if (needs.c_0) d_c_0_ = at::empty({s_.D, s_.B, s_.H}, arithmetic_);
    // Where two teams run at once each has an input gradient of its own; else the second one adds.
    for (int team = 0; needs.input && team < grid_.plan().direction_teams; ++team) {
      d_input_.push_back(new_gradient({s_.T, s_.B, s_.I}));
    }
    for (std::int64_t d = 0; d < s_.D; ++d) args_.push_back(arguments(d));
  }

  void run() {
    grid_.run(kernels_.backward_scratch(args_[0]),
              [&](int d, const Place& place) { kernels_.backward(args_[d], place); });
    if (needs_.sums) needs_.sums->is_begun = true;
  }

  InputGradients results() const {
    const auto storage = layer_.input.scalar_type();
    const auto stored = [&](const at::Tensor& x) { return x.defined() ? x.to(storage) : x; };
    InputGradients result;
    if (needs_.input) {
      at::Tensor sum = d_input_[0];
      if (d_input_.size() == 2) sum.add_(d_input_[1]);
      result.input = stored(sum);
    }
    result.h_0 = stored(d_h_0_), result.c_0 = stored(d_c_0_);
    if (needs_.gates) {
      result.dx_gates = buffers_[0].dx_gates, result.dg_gates = buffers_[0].dg_gates;
    }
    for (const DirectionWeights& d : d_weights_) {
      result.weights.push_back({stored(d.weight_ih),
                                stored(d.weight_hh),
                                stored(d.bias_ih),
                                stored(d.bias_hh),
                                {},
                                {},
                                {}});
    }
    return result;
  }

 private:
  // A sum over the frames: written whole, unless there is none or (the input's) some are missing.
  at::Tensor new_gradient(at::IntArrayRef shape) const {
    const bool is_whole = grid_.frames() == s_.T * s_.B || (shape.size() < 3 && grid_.frames() > 0);
    return is_whole ? at::empty(shape, arithmetic_) : at::zeros(shape, arithmetic_);
  }

  TeamBuffers make_buffers() const {
    const std::int64_t frames = grid_.plan().backward_frames, gates = s_.G * s_.H;
    const std::int64_t padded = grid_.padded_units(s_.H);
    const auto empty = [&](at::IntArrayRef shape) { return at::empty(shape, arithmetic_); };
    TeamBuffers b;
    b.carry_dh = empty({s_.B, padded});
    if (layer_.cell.has_c()) b.carry_dc = empty({s_.B, padded});
    b.dx_gates = empty({frames, gates});
    b.dg_gates = layer_.cell.additive ? b.dx_gates : empty({frames, gates});
    if (!outputs_.saved.defined()) b.saved_again = empty({frames, s_.saved * s_.H});
    const std::int64_t panel_frames = std::max(frames, kLeastPanelFrames);
    b.plain_x = empty({grid_.padded_units(s_.I), panel_frames});
    b.plain_h = empty({padded, panel_frames});
    return b;
  }

  BackwardArgs arguments(std::int64_t d) {
    BackwardArgs a{};
    static_cast<LayerArgs&>(a) = grid_.arguments(layer_, d);
    a.chunk_frames = grid_.plan().backward_frames;
    a.output = pointer(outputs_.output, d * s_.H), a.cells = pointer(outputs_.cells, d * s_.H);
    a.saved = pointer(outputs_.saved, d * s_.T * s_.B * a.saved_stride);
    a.d_output = pointer(grads_.output, d * s_.H), a.d_cells = pointer(grads_.cells, d * s_.H);
    a.d_h_n = pointer(grads_.h_n, d * s_.B * s_.H), a.d_c_n = pointer(grads_.c_n, d * s_.B * s_.H);
    a.d_h_0 = pointer(d_h_0_, d * s_.B * s_.H), a.d_c_0 = pointer(d_c_0_, d * s_.B * s_.H);
    set_weights(a, d);
    set_weight_gradients(a, d);
    const size_t team = size_t(d) % buffers_.size();
    const TeamBuffers& b = buffers_[team];
    if (needs_.input) {
      a.d_input = pointer(d_input_[team]);
      a.add_to_d_input = size_t(d) >= d_input_.size();
    }
    a.carry_dh = pointer(b.carry_dh), a.carry_dc = pointer(b.carry_dc);
    a.dx_gates = pointer(b.dx_gates), a.dg_gates = pointer(b.dg_gates);
    a.saved_again = pointer(b.saved_again);
    a.plain_x = pointer(b.plain_x), a.plain_h = pointer(b.plain_h);
    return a;
  }

  const Pack& keep(std::shared_ptr<const Pack> pack) {
    packs_.push_back(std::move(pack));
    return *packs_.back();
  }
  void set_weights(BackwardArgs& a, std::int64_t d) {
    const DirectionWeights& w = layer_.weights[d];
    if (s_.T == 1) {
      a.own_weight_ih = pointer(w.weight_ih), a.own_weight_hh = pointer(w.weight_hh);
    } else {
      a.plain_hh = keep(pack_plain(kernels_, w.weight_hh)).panels.get();
    }
    if (needs_.input && s_.T > 1) a.plain_ih = keep(pack_plain(kernels_, w.weight_ih)).panels.get();
    if (outputs_.saved.defined()) return;
    const Pack& of_input = keep(pack_gates(kernels_, int(s_.G), w.weight_ih, {}, w.bias_ih));
    a.panels_ih = of_input.panels.get(), a.bias_ih = of_input.bias.get();
    const Pack& of_state = keep(pack_gates(kernels_, int(s_.G), w.weight_hh, {}, w.bias_hh));
    a.panels_hh = of_state.panels.get(), a.bias_hh = of_state.bias.get();
  }
  void set_weight_gradients(BackwardArgs& a, std::int64_t d) {
    const std::int64_t gates = s_.G * s_.H;
    const PerWeight<bool>& needs = needs_.weights[d];
    DirectionWeights g;
    if (needs_.sums) g = needs_.sums->weights, a.add_to_weights = needs_.sums->is_begun;
    if (needs.weight_ih) g.weight_ih = new_gradient({gates, s_.I});
    if (needs.weight_hh) g.weight_hh = new_gradient({gates, s_.H});
    if (needs.bias_ih) g.bias_ih = new_gradient({gates});
    if (needs.bias_hh) g.bias_hh = new_gradient({gates});
    a.d_weight_ih = pointer(g.weight_ih), a.d_weight_hh = pointer(g.weight_hh);
    a.d_bias_ih = pointer(g.bias_ih), a.d_bias_hh = pointer(g.bias_hh);
    if (!needs_.sums) d_weights_.push_back(g);
  }

  const Layer& layer_;
  const LayerSizes& s_;
  const LayerOutputs& outputs_;
  const LayerGradients& grads_;
  const LayerNeeds& needs_;
  const CellKernels& kernels_;
  Grid grid_;
  const at::TensorOptions arithmetic_;
  std::vector<TeamBuffers> buffers_;
  std::vector<std::shared_ptr<const Pack>> packs_;
  std::vector<BackwardArgs> args_;
  std::vector<at::Tensor> d_input_;
  std::vector<DirectionWeights> d_weights_;
  at::Tensor d_h_0_, d_c_0_;
};

}  // namespace

InputGradients sequence_backward(const Layer& layer, const LayerOutputs& outputs,
                                 const LayerGradients& grads, const LayerNeeds& needs,
                                 const CellKernels& kernels) {
  BackwardPass pass(layer, outputs, grads, needs, kernels);
  pass.run();
  return pass.results();
}

}  // namespace fastcells::cpu
