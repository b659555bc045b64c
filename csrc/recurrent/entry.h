// From an op's arguments to an engine and back: what the entry points of all devices share.
#pragma once
#include "recurrent/engine.h"

namespace fastcells {

// Checks the arguments, runs the engine, and returns what the op's schema says.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> run_forward(
    const LayerArguments& arguments, std::string_view keep, const Engine& engine);

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> run_backward(
    const LayerArguments& arguments, const LayerGradients& grads, const LayerOutputs& outputs,
    const c10::List<bool>& needs, const Engine& engine);

std::tuple<at::Tensor, at::Tensor> run_step(std::string_view cell, const at::Tensor& input,
                                            const OptionalTensor& h, const OptionalTensor& c,
                                            at::TensorList weights, const Engine& engine);

}  // namespace fastcells
