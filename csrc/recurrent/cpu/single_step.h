// One step of a row or two, whose kernels read the weights where they lie, without a pack.
#pragma once
#include <ATen/core/Tensor.h>

#include "recurrent/cpu/kernels/args.h"
#include "recurrent/layer.h"

namespace fastcells::cpu {

// With more rows packed weights are read once for all.
constexpr int64_t kMostStepRows = 2;

struct StepTensors {
  const at::Tensor &input, &h, &c;  // [B, I] or [I], [B, H] or [H]; c undefined without one
  const at::Tensor &weight_ih, &weight_hh, &bias_ih, &bias_hh;  // biases may be undefined
};

int step_threads(const LayerSizes& sizes, int64_t element_bytes);
// One step of contiguous tensors that fit together, into h_new and c_new; and what a way back
// needs, where they are defined, into cells [B, H] arithmetic and saved [B, S*H].
void run_step(const CellKernels& kernels, const LayerSizes& sizes, const StepTensors& tensors,
              const at::Tensor& h_new, const at::Tensor& c_new, const at::Tensor& cells = {},
              const at::Tensor& saved = {});

}  // namespace fastcells::cpu
