// Steps of one cell in a loop. Each would write weights' gradients of full size, and have autograd
// add them up. Instead the steps after the first reach their weights through one node that they
// share: they add to its sums, and autograd runs the node after the last of them.
//
//   step 3 --\                             /--> weight_ih
//   step 2 ---+--> shared node: the sums --+---> weight_hh
//   step 1 -- as ever: no loop was seen ---+---> ...
//
// A loop is: a step of these weights is recorded while the way back of another is still to come.
// What autograd promises of leaves holds: their hooks see one gradient, the sum; whoever asks for
// no weight's gradient pays for none. Gradients that Python computes (they may be differentiated
// again, or are batched) pass through the node as they are.
#pragma once
#include <string>
#include <vector>

#include "recurrent/engine.h"

namespace fastcells::loop {

// After a step has been recorded, of which `result` came: lets its weights' gradients go through
// the node that the loop shares, where they are sums of products and biases alone. `kept` is what
// the step's node alone holds, as long as it may run; `weights` are the last of the recorded call's
// tensors.
void share_weights(const CellFacts& cell, const WeightNames& names, const at::Tensor& result,
                   const at::Tensor& kept, at::TensorList weights);

// What a step leaves of its weights' gradients for a product with other steps' rows.
struct StepRows {
  at::Tensor dx_gates, dg_gates;  // [B, G*H] arithmetic; one tensor where the cell is additive
  at::Tensor x, h;                // [B, I], [B, H]
};

// The weights' gradients of the steps of one loop, in one run of autograd. Steps add their own
// products, but those of few rows, which would read and write large weights' gradients for little
// arithmetic, are gathered for one product.
class StepSums : public WeightSums {
 public:
  StepSums(const Layer& layer, const WeightNames& names);

  bool gathers(const LayerSizes& sizes) const;
  void gather(const StepRows& rows);
  // In the order of the names, and the end.
  std::vector<at::Tensor> take();

 private:
  void multiply();

  std::vector<std::string> names_;
  std::vector<StepRows> rows_;
  size_t bytes_ = 0;
};

// On the way back of a step, whose last edges are those of its weights: whether they lead to a
// shared node, and that node's sums.
bool shares_weights(size_t weights);
StepSums* find_sums(const Layer& layer, const WeightNames& names);

}  // namespace fastcells::loop
