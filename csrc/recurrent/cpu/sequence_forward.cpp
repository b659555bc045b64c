#include <ATen/ops/empty.h>

#include "recurrent/cpu/packs.h"
#include "recurrent/cpu/sequence.h"

namespace fastcells::cpu {

LayerOutputs sequence_forward(const Layer& layer, Keep keep, const CellKernels& kernels) {
  const auto& s = layer.sizes;
  LayerOutputs outputs = empty_outputs(layer, keep);
  Grid grid(layer, kernels, /*is_training=*/keep != Keep::kNothing);
  const auto arithmetic = layer.input.options().dtype(layer.arithmetic());
  const std::int64_t padded = grid.padded_units(s.H);
  const at::Tensor carry_h = at::empty({s.D, 2, s.B, padded}, arithmetic);
  const at::Tensor carry_c =
      layer.cell.has_c() ? at::empty({s.D, s.B, padded}, arithmetic) : at::Tensor();
  std::vector<ForwardArgs> args(s.D);
  std::vector<std::shared_ptr<const Pack>> packs;
  for (std::int64_t d = 0; d < s.D; ++d) {
    const DirectionWeights& w = layer.weights[d];
    ForwardArgs& a = args[d];
    static_cast<LayerArgs&>(a) = grid.arguments(layer, d);
    if (s.T == 1 && kernels.takes_own_weights) {
      a.own_weight_ih = pointer(w.weight_ih), a.own_weight_hh = pointer(w.weight_hh);
      a.own_bias_ih = pointer(w.bias_ih), a.own_bias_hh = pointer(w.bias_hh);
    } else {
      packs.push_back(pack_gates(kernels, int(s.G), w.weight_ih, w.scale_ih, w.bias_ih));
      a.panels_ih = packs.back()->panels.get(), a.bias_ih = packs.back()->bias.get();
      packs.push_back(pack_gates(kernels, int(s.G), w.weight_hh, w.scale_hh, w.bias_hh));
      a.panels_hh = packs.back()->panels.get(), a.bias_hh = packs.back()->bias.get();
    }
    a.chunk_frames = grid.plan().forward_frames;
    a.output = pointer(outputs.output, d * s.H);
    a.h_n = pointer(outputs.h_n, d * s.B * s.H), a.c_n = pointer(outputs.c_n, d * s.B * s.H);
    a.cells = pointer(outputs.cells, d * s.H);
    a.saved = pointer(outputs.saved, d * s.T * s.B * a.saved_stride);
    a.carry_h = pointer(carry_h, d * 2 * s.B * padded);
    a.carry_c = pointer(carry_c, d * s.B * padded);
  }
  const std::int64_t panels = (s.H + kernels.panel_units - 1) / kernels.panel_units;
  const std::int64_t own = (panels + grid.plan().unit_threads - 1) / grid.plan().unit_threads;
  const std::size_t scratch = kernels.forward_scratch(args[0], own, grid.most_rows());
  if (keep == Keep::kNothing && grid.is_better_alone()) {
    grid.run_alone(scratch, [&](int d, const Place* places, int count) {
      kernels.forward_alone(args[d], places, count);
    });
  } else {
    grid.run(scratch, [&](int d, const Place& place) { kernels.forward(args[d], place); });
  }
  return outputs;
}

}  // namespace fastcells::cpu
