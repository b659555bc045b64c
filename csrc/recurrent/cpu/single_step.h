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
  const at::Tensor &weight_ih, &weight_hh;
  const at::Tensor &bias_ih, &bias_hh, &scale_ih, &scale_hh;  // may be undefined
};

// With more steps packed weights are cheaper, although each call makes sure that they are true.
constexpr int64_t kMostSteps = 4;

// Whether a layer is computed a step at a time. c is carried in storage, which for 16 bits does
// from one step to the next not hold it.
inline bool is_few_steps(const LayerSizes& s, Storage storage) {
  const bool is_wide = storage == Storage::kFloat32 || storage == Storage::kFloat64;
  return s.T <= (is_wide ? kMostSteps : 1) && s.B <= kMostStepRows;
}

int step_threads(const LayerSizes& sizes, int64_t element_bytes);
StepArgs step_arguments(const LayerSizes& sizes, const DirectionWeights& weights);
void run_step(const CellKernels& kernels, const LayerSizes& sizes, int64_t element_bytes,
              const StepArgs& args);
// One step of contiguous tensors that fit together, into h_new and c_new.
void run_step(const CellKernels& kernels, const LayerSizes& sizes, const StepTensors& tensors,
              const at::Tensor& h_new, const at::Tensor& c_new);

}  // namespace fastcells::cpu
