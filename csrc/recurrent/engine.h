// What computes a layer: the engines' common form. A device brings one, which may choose among
// several for each layer.
#pragma once
#include <string>
#include <vector>

#include "recurrent/layer.h"

namespace fastcells {

enum class Keep { kNothing, kCells, kStates, kEverything };  // ops.h: RecurrentForward
Keep parse_keep(std::string_view keep);

struct LayerOutputs {  // ops.h: RecurrentForward
  at::Tensor output, h_n, c_n, cells, saved;
};

struct LayerGradients {  // of the outputs (undefined: zero), or of the inputs
  at::Tensor output, h_n, c_n, cells;
};

// What the weights' gradients of several steps are added up in, all in the arithmetic type.
struct WeightSums {
  DirectionWeights weights;  // undefined where not needed
  bool is_begun = false;     // else not written yet
};

struct LayerNeeds {
  bool input, h_0, c_0;
  std::vector<PerWeight<bool>> weights;  // D
  // Instead of the weights' gradients, where the engine can (is_plain_step): those of the gates, or
  // that they be added to sums.
  bool gates = false;
  WeightSums* sums = nullptr;
};

struct InputGradients {  // ops.h: RecurrentBackward
  at::Tensor input, h_0, c_0;
  std::vector<DirectionWeights> weights;  // D; undefined where not needed
  at::Tensor dx_gates, dg_gates;          // [B, G*H] arithmetic; one tensor of an additive cell
};

// What `explain` tells of a call: the engine, its plan in words, and why not a faster engine (or
// empty).
struct Choice {
  std::string engine, plan, why;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual LayerOutputs forward(const Layer& layer, Keep keep) const = 0;
  // Where `outputs.saved` is undefined the gates are computed again.
  virtual InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                                  const LayerGradients& grads, const LayerNeeds& needs) const = 0;
  // Whether this is a step whose way back gives its gates' gradients, or adds to sums.
  virtual bool is_plain_step(const Layer&) const { return false; }
  // A layer of one step, of which only the final states are wanted.
  virtual LayerOutputs step(const Layer& layer) const { return forward(layer, Keep::kNothing); }
};

// Uninitialised results of a forward pass: what `keep` does not ask for is undefined.
LayerOutputs empty_outputs(const Layer& layer, Keep keep);
// Where no step or no row exists: the initial states (undefined: zeros) are the final ones.
void pass_states(const at::Tensor& initial, const at::Tensor& last);
// The way back there.
InputGradients nothing_back(const Layer& layer, const LayerGradients& grads,
                            const LayerNeeds& needs);
// Address of element `index`, or nullptr for an undefined tensor.
void* pointer(const at::Tensor& tensor, int64_t index = 0);

}  // namespace fastcells
