#include "recurrent/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

namespace fastcells {

Keep parse_keep(std::string_view keep) {
  if (keep == "nothing") return Keep::kNothing;
  if (keep == "cells") return Keep::kCells;
  if (keep == "states") return Keep::kStates;
  TORCH_CHECK_VALUE(keep == "everything", "fastcells::recurrent_forward: keep must be 'nothing', ",
                    "'cells', 'states' or 'everything', got '", std::string(keep), "'");
  return Keep::kEverything;
}

void* pointer(const at::Tensor& tensor, int64_t index) {
  if (!tensor.defined()) return nullptr;
  return static_cast<char*>(tensor.data_ptr()) + index * tensor.element_size();
}

LayerOutputs empty_outputs(const Layer& layer, Keep keep) {
  const auto& s = layer.sizes;
  const auto storage = layer.input.options();
  const bool has_c = layer.cell.has_c();
  LayerOutputs outputs;
  outputs.output = at::empty({s.T, s.B, s.D * s.P}, storage);
  outputs.h_n = at::empty({s.D, s.B, s.P}, storage);
  if (has_c) outputs.c_n = at::empty({s.D, s.B, s.c()}, storage);
  if (has_c && keep != Keep::kNothing) {
    outputs.cells = at::empty({s.T, s.B, s.D * s.c()}, storage.dtype(layer.arithmetic()));
  }
  if (keep == Keep::kEverything) {
    outputs.saved =
        at::empty({s.D, s.T, s.B, s.saved * s.H}, storage.dtype(layer.storage_of_saved()));
  }
  return outputs;
}

void pass_states(const at::Tensor& initial, const at::Tensor& last) {
  if (!last.defined()) return;
  if (initial.defined()) {
    last.copy_(initial);
  } else {
    last.zero_();
  }
}
InputGradients nothing_back(const Layer& layer, const LayerGradients& grads,
                            const LayerNeeds& needs) {
  const auto& s = layer.sizes;
  const auto options = layer.input.options();
  InputGradients result;
  if (needs.input) result.input = at::zeros({s.T, s.B, s.I}, options);
  if (needs.h_0) pass_states(grads.h_n, result.h_0 = at::empty({s.D, s.B, s.P}, options));
  if (needs.c_0) pass_states(grads.c_n, result.c_0 = at::empty({s.D, s.B, s.c()}, options));
  for (int64_t d = 0; d < s.D; ++d) {
    DirectionWeights weights = layer.weights[d], zeros;
    PerWeight<bool> wanted = needs.weights[d];
    for_each_weight(weights, [&](const char* name, const at::Tensor& weight) {
      if (*find_weight(wanted, name))
        *find_weight(zeros, name) = at::zeros(weight.sizes(), options);
    });
    result.weights.push_back(zeros);
  }
  return result;
}

}  // namespace fastcells
