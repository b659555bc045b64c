// The CPU engine: a whole layer in one team of threads, its weights packed, one barrier a step.
//
// The kernels are those of an instruction set (recurrent/cpu/kernels/), the grid of threads is
// recurrent/cpu/plan.h's. What it does not take (no such kernels, a projection, no elements) the
// stepwise engine takes.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "recurrent/cpu/kernels/args.h"
#include "recurrent/cpu/plan.h"
#include "recurrent/engine.h"

namespace fastcells::cpu {

// The kernels for a layer, or nullptr and, in `why`, the reason.
const CellKernels* find_kernels(const CellFacts& cell, Storage storage, WeightStorage weights,
                                const LayerSizes& sizes, bool is_projected, std::string& why);

Plan plan_layer(const CellKernels& kernels, const CellFacts& cell, Storage storage,
                const LayerSizes& sizes, bool is_training);

LayerOutputs sequence_forward(const Layer& layer, Keep keep, const CellKernels& kernels);
InputGradients sequence_backward(const Layer& layer, const LayerOutputs& outputs,
                                 const LayerGradients& grads, const LayerNeeds& needs,
                                 const CellKernels& kernels);

// What both passes set up for one layer: the grid, the rows of each group, each thread's place.
class Grid {
 public:
  Grid(const Layer& layer, const CellKernels& kernels, bool is_training);

  const Plan& plan() const { return plan_; }
  std::int64_t frames() const { return frames_; }  // rows that exist, over all steps
  std::int64_t padded_units(std::int64_t columns) const;
  std::int64_t most_rows() const;
  // The arguments that both passes share, for one direction.
  LayerArgs arguments(const Layer& layer, std::int64_t direction) const;
  // Runs body(direction, place) on every thread, for each direction that the thread takes part in.
  // The scratch is `bytes` a thread.
  void run(std::size_t bytes, const std::function<void(int, const Place&)>& body);
  // All of it on this thread: body(direction, places, count) for each group of rows.
  void run_alone(std::size_t bytes, const std::function<void(int, const Place*, int)>& body);
  // Whether that is the faster way now: the other threads sleep, and the work is small.
  bool is_better_alone() const;

 private:
  void list_rows(const Layer& layer);
  Place place(int thread, std::vector<Barrier>& teams, std::vector<Barrier>& groups, char* scratch);

  Plan plan_;
  std::int64_t directions_, steps_, frames_ = 0;
  std::int64_t lanes_;
  std::vector<std::int32_t> order_, active_;
  std::vector<RowGroup> groups_;
};

}  // namespace fastcells::cpu
