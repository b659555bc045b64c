// The stepwise engine: one matrix product and one fused step kernel per time step.
//
// It runs every cell, dtype, direction, projection, length and reset, on any device that brings
// its step kernels; the products are ATen's. Faster engines take over where they apply.
//
//   input --W_ih--> x_gates [T*B, G*H]            one product for all steps
//   for each step:  h_gates = carry_h W_hh^T      one product
//                   kForward: gates, cell, store h and what the way back needs
//   back, last step first:  kBackward: gradients of the gates;  product_dh = dg W_hh
//   then dW_ih, dW_hh, dW_hr, the biases and the input: one product each for all steps
//   (what two products a step or a projection add: recurrent/stepwise/step_args.h)
#pragma once
#include "recurrent/engine.h"
#include "recurrent/stepwise/step_args.h"

namespace fastcells {

// The fused step kernels of a device, and how its matrix products take 16-bit storage.
class StepKernels {
 public:
  virtual ~StepKernels() = default;
  virtual void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const = 0;
  virtual void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const = 0;
  // Type of a product's operands: storage itself, or the arithmetic type it is converted to.
  virtual at::ScalarType operand(const Layer& layer) const = 0;
};

// The engine on the step kernels of one device.
class StepwiseEngine final : public Engine {
 public:
  explicit StepwiseEngine(const StepKernels& kernels) : kernels_(kernels) {}
  LayerOutputs forward(const Layer& layer, Keep keep) const override;
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override;

 private:
  const StepKernels& kernels_;
};

LayerOutputs stepwise_forward(const Layer& layer, Keep keep, const StepKernels& kernels);
InputGradients stepwise_backward(const Layer& layer, const LayerOutputs& outputs,
                                 const LayerGradients& grads, const LayerNeeds& needs,
                                 const StepKernels& kernels);

// Helpers of both passes.
// a b, or into out: in `dtype`, accumulated at least in float32.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype);
void product_out(at::Tensor out, const at::Tensor& a, const at::Tensor& b);
// [T*B, I] as an operand; 0 where a step does not exist, so that NaN there reaches no product.
at::Tensor operand_rows(const Layer& layer, at::ScalarType operand);

}  // namespace fastcells
