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
//   weights those of the first direction, then those of the second
//   names   what each of a direction's weights is, spaces between: weight_ih, weight_hh, bias_ih,
//           bias_hh, weight_hr, in any order
//   keep    "nothing", "cells" (all c_t), "states" (what a way back needs that computes the gates
//           again: all c_t; h_t is the output) or "everything" (cells, and saved for the way back)
//   output  [T, B, D*P] storage; 0 past a row's end
//   h_n     [D, B, P] storage: h at each row's end (its start for the reverse direction)
//   c_n     [D, B, H] storage; absent for a cell without c
//   cells   [T, B, D*H] arithmetic; absent for keep "nothing", or for a cell without c
//   saved   [D, T, B, S*H] storage; absent unless keep is "everything"
using RecurrentForward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    std::string_view cell, int64_t directions, const at::Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, at::TensorList weights, std::string_view names,
    const OptionalTensor& lengths, const OptionalTensor& resets, std::string_view keep);

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
    const OptionalTensor& c_0, at::TensorList weights, std::string_view names,
    const OptionalTensor& lengths, const OptionalTensor& resets, const at::Tensor& output,
    const at::Tensor& cells, const at::Tensor& saved, c10::List<bool> needs);

// One step of one direction, without a way back: input [B, I], h [B, P], c [B, H] -> h', c'
// (absent for a cell without c).
using RecurrentStep = std::tuple<at::Tensor, at::Tensor>(
    std::string_view cell, const at::Tensor& input, const OptionalTensor& h,
    const OptionalTensor& c, at::TensorList weights, std::string_view names);

RecurrentForward recurrent_forward;
RecurrentBackward recurrent_backward;
RecurrentStep recurrent_step;

// Attention of N heads, Tq queries and Tk keys of width E and values of width Ev; head n reads key
// head n / (N / Nk). Equations: docs/attention.md.
//   query, key, value  [B, N, Tq, E], [B, Nk, Tk, E], [B, Nk, Tk, Ev] of one dtype, any strides
//   mask               [1|B, 1|N, 1|Tq, 1|Tk]: bool (true: attend), or storage or float32 (added to
//                      the score, in arithmetic); only false and minus infinity hide a key
//   key_lengths        int64 [B]: keys from there on do not exist, and are not read
//   seed               int64 [1], needed for dropout: math/philox.h
//   left, right        key j is seen by query i iff -left <= j - (i + offset) <= right; none
//                      on a side where it is negative
//   output             [B, N, Tq, Ev] storage; 0 for a query that sees no key
//   logsumexp          [B, N, Tq, 2] arithmetic, in two parts: the largest of the masked scores,
//   and
//                      the logarithm of the sum of exponentials below it; -infinity and 0 for a
//                      query that sees no key
//   weights            [B, N, Tq, Tk] storage, after dropout; absent unless asked for
using AttentionForward = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
    double scale, double softcap, int64_t left, int64_t right, int64_t offset, double dropout_p,
    bool return_weights);

// Its gradients: of query, key, value, and of an added mask, in its dtype, summed over what was
// broadcast (absent unless asked for). output and logsumexp are the forward pass's.
using AttentionBackward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
    const at::Tensor& key, const at::Tensor& value, const OptionalTensor& mask,
    const OptionalTensor& key_lengths, const OptionalTensor& seed, const at::Tensor& output,
    const at::Tensor& logsumexp, double scale, double softcap, int64_t left, int64_t right,
    int64_t offset, double dropout_p, bool needs_mask_grad);

// Attention with scores sum_d scale_d tanh(q_id + k_jd): query [B, Tq, D], key [B, Tk, D], value
// [B, Tk, E], scale [D], mask [1|B, 1|Tq, 1|Tk]; the results as above, without heads.
using AdditiveAttentionForward = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& scale, const OptionalTensor& mask, const OptionalTensor& key_lengths,
    const OptionalTensor& seed, double dropout_p, bool return_weights);

// Its gradients: of query, key, value, scale and an added mask.
using AdditiveAttentionBackward =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
        const at::Tensor& grad_output, const OptionalTensor& grad_weights, const at::Tensor& query,
        const at::Tensor& key, const at::Tensor& value, const at::Tensor& scale,
        const OptionalTensor& mask, const OptionalTensor& key_lengths, const OptionalTensor& seed,
        const at::Tensor& output, const at::Tensor& logsumexp, double dropout_p,
        bool needs_mask_grad);

AttentionForward attention_forward;
AttentionBackward attention_backward;
AdditiveAttentionForward additive_attention_forward;
AdditiveAttentionBackward additive_attention_backward;

// A linear scan: h_t = a_t h_p(t) + b_t, p(t) the step processed before t, from h_0; or the adjoint
// of the scan with these arguments, which takes the gradient of h in the place of b and gives that
// of b. Equations: scan/args.h.
//   a            [1|T, 1|B, 1|H], with batch_first [1|B, 1|T, 1|H]
//   b            [T, B, H], or [B, T, H]; any strides
//   h_0          [B, H]; not of an adjoint scan
//   lengths      int64 [B]; resets bool [T, B], or [B, T]: rows.h
//   h            like b, 0 past a row's end
using LinearScan = at::Tensor(const at::Tensor& a, const at::Tensor& b, const OptionalTensor& h_0,
                              const OptionalTensor& lengths, const OptionalTensor& resets,
                              bool batch_first, bool reverse, bool adjoint);

// Its gradients, not of an adjoint scan's: of a, b and h_0, those in `needs`. h is the scan's, and
// is read for that of a alone. Returned like a, h and h_0; that of a is summed over what was
// broadcast.
using LinearScanBackward = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& grad_h, const at::Tensor& a, const at::Tensor& h, const OptionalTensor& h_0,
    const OptionalTensor& lengths, const OptionalTensor& resets, bool batch_first, bool reverse,
    c10::List<bool> needs);

LinearScan linear_scan;
LinearScanBackward linear_scan_backward;

}  // namespace fastcells
