// Every C++ entry point once. Letters: T steps, B batch, I input, H hidden, P width of h (H, or
// proj_size), G gates, S values saved a unit (CellFacts; one more with a projection), D directions.
// "storage" is the input's dtype; "arithmetic" is float64 for float64 and float32 otherwise.
//
// Inputs are never written and may alias one another; results are new tensors that alias nothing.
// An absent result is an empty tensor of shape (0,). Shapes of the arguments: recurrent/layer.h.
#pragma once
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

namespace fastcells {

using OptionalTensor = std::optional<at::Tensor>;

// One layer over all steps.
//   keep    "nothing", "cells" (all c_t), "states" (what a way back needs that computes the gates
//           again: all c_t; h_t is the output) or "everything" (cells, and saved for the way back)
//   output  [T, B, D*P] storage; 0 past a row's end
//   h_n     [D, B, P] storage: h at each row's end (its start for the reverse direction)
//   c_n     [D, B, H] storage; absent for a cell without c
//   cells   [T, B, D*H] arithmetic; absent for keep "nothing", or for a cell without c
//   saved   [D, T, B, S*H] storage; absent unless keep is "everything"
using RecurrentForward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    std::string_view cell, int64_t directions, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, std::string_view keep);

// Its gradients.
//   grad_*                 of output, h_n, c_n (storage) and cells (arithmetic); absent: zero
//   output, cells, saved   the forward pass's with keep "everything" or "states"; left unharmed.
//                          saved absent: what it would hold is computed again
//   needs                  input, h_0, c_0, then each weight: what is not needed comes back absent
// Returns grad_input, grad_h_0, grad_c_0 and grad_weights, shaped and stored like the arguments.
using RecurrentBackward = std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>>(
    std::string_view cell, int64_t directions, const OptionalTensor& grad_output,
    const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
    const OptionalTensor& grad_cells, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, const OptionalTensor& lengths,
    const OptionalTensor& resets, const at::Tensor& output, const at::Tensor& cells,
    const at::Tensor& saved, c10::List<bool> needs);

// One step of one direction, without a way back: input [B, I], h [B, P], c [B, H] -> h', c'
// (absent for a cell without c).
using RecurrentStep = std::tuple<at::Tensor, at::Tensor>(std::string_view cell,
                                                         const at::Tensor& input,
                                                         const OptionalTensor& h,
                                                         const OptionalTensor& c,
                                                         at::TensorList weights);

RecurrentForward recurrent_forward_cpu, recurrent_forward_cuda;
RecurrentBackward recurrent_backward_cpu, recurrent_backward_cuda;
RecurrentStep recurrent_step_cpu, recurrent_step_cuda;

}  // namespace fastcells
