// The CUDA engines for cells from equations on tensors of the CPU, their kernels under the
// emulator: what a GPU would run of a layer, but for cuBLAS. Included behind printed cells, with
//
//   FASTCELLS_EACH_CELL(f)   f(struct, place among the cells) for each of them
//
// The ops are under torch.ops.fastcells_emulated, with the names and schemas of
// torch.ops.fastcells.
#include <torch/library.h>

#include <deque>

#include "ops.h"
#include "recurrent/compiled/cuda/kernels.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/cpu/engine.h"
#include "recurrent/cuda/launch.h"
#include "recurrent/elementwise/cuda/engine.h"
#include "recurrent/rowwise/cuda/engine.h"
#include "recurrent/rowwise/cuda/launch.h"
#include "recurrent/stepwise/stages.h"
#include "recurrent/stepwise/stepwise.h"
#include "simt/cuda.h"
#include "simt/machine.h"

namespace fastcells {
namespace {

template <class F>
int with_types(Storage storage, const F& f) {
  if (storage == Storage::kFloat64) {
    f(Types<double, double, double>{});
  } else {
    f(Types<float, float, float>{});
  }
  return 0;
}

}  // namespace

namespace compiled {

// What entries.cuh has, of every cell.
template <class Own>
__global__ void forward_kernel(typename Own::ForwardArgs a) {
  Own::forward(a);
}
template <class Own>
__global__ void backward_kernel(typename Own::BackwardArgs a) {
  Own::backward(a);
}
template <class Own>
void run(Way way, Grid grid, const void* args) {
  if (way == Way::kForward) {
    simt::launch({grid.blocks}, {grid.threads}, grid.shared_bytes, {}, forward_kernel<Own>,
                 *static_cast<const typename Own::ForwardArgs*>(args));
  } else {
    simt::launch({grid.blocks}, {grid.threads}, grid.shared_bytes, {}, backward_kernel<Own>,
                 *static_cast<const typename Own::BackwardArgs*>(args));
  }
}

bool has_image(CellKind, Storage) { return true; }
int launch_kernel(CellKind kind, Storage storage, Way way, Grid grid, const void* args, void*) {
  if (grid.blocks == 0) return 0;
  return with_types(storage, [&](auto types) {
#define FASTCELLS_LAUNCH(Cell, place) \
  if (int(kind) == kFirst + place) run<KernelsOf<Cell, decltype(types)>>(way, grid, args);
    FASTCELLS_EACH_CELL(FASTCELLS_LAUNCH)
  });
}

}  // namespace compiled

namespace {

struct Emulated {
  template <class Step>
  void operator()(const Step& step, std::int64_t rows, std::int64_t units) const {
    const Grid grid = grid_of_steps(rows * units);
    if (grid.blocks == 0) return;
    simt::launch({grid.blocks}, {grid.threads}, 0, {}, step_kernel<Step>, step, rows, units);
  }
};

class EmulatedStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    run(stage, layer, args,
        [&](auto types) { run_forward_of_any_cell<decltype(types)>(stage, args, Emulated{}); });
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    run(stage, layer, args,
        [&](auto types) { run_backward_of_any_cell<decltype(types)>(stage, args, Emulated{}); });
  }
  at::ScalarType operand(const Layer& layer) const override { return layer.input.scalar_type(); }

 private:
  template <class Args, class OfAnyCell>
  static void run(Stage stage, const Layer& layer, const Args& args, const OfAnyCell& of_any_cell) {
    if (knows_no_cell(stage)) {
      with_types(layer.storage, of_any_cell);
    } else {
      compiled::launch(layer.cell.kind, layer.storage, args, nullptr);
    }
  }
};

class EmulatedEngine final : public Engine {
 public:
  LayerOutputs forward(const Layer& layer, Keep keep) const override {
    return engine_of(layer).forward(layer, keep);
  }
  InputGradients backward(const Layer& layer, const LayerOutputs& outputs,
                          const LayerGradients& grads, const LayerNeeds& needs) const override {
    return engine_of(layer).backward(layer, outputs, grads, needs);
  }

 private:
  const Engine& engine_of(const Layer& layer) const {
    if (layer.cell.is_elementwise) return elementwise::cuda_engine();
    if (layer.is_rowwise()) return rowwise::cuda_engine();
    return stepwise_;
  }
  const EmulatedStepKernels kernels_;
  const StepwiseEngine stepwise_{kernels_};
};

// Makes a cell known, of both storages, by the constants of its struct; its place follows from the
// order.
void declare(std::string name, c10::Dict<std::string, int64_t> constants) {
  static std::deque<std::string> names;  // nothing in them moves
  static std::deque<compiled::CellLibrary> libraries;
  std::map<std::string, int> found;
  for (const auto& one : constants) found[one.key()] = int(one.value());
  names.push_back(name);
  for (const Storage storage : {Storage::kFloat32, Storage::kFloat64}) {
    libraries.push_back(compiled::facts_of(names.back(), found));
    libraries.back().storage = storage;
    compiled::take(libraries.back());
  }
}

}  // namespace

int launch_row_start(Storage storage, const RowForwardArgs& a, void*) {
  return with_types(storage,
                    [&](auto types) { Emulated{}(RowStart<decltype(types)>{a}, a.rows.B, a.H); });
}
int launch_row_finish(Storage storage, const RowBackwardArgs& a, void*) {
  return with_types(storage,
                    [&](auto types) { Emulated{}(RowFinish<decltype(types)>{a}, a.rows.B, a.H); });
}

// The ops' engine for tensors of the CPU.
namespace cpu {
const Engine& engine() {
  static const EmulatedEngine engine;
  return engine;
}
}  // namespace cpu

}  // namespace fastcells

// With the schemas that their types make: those of torch.ops.fastcells but for names.
TORCH_LIBRARY(fastcells_emulated, m) {
  m.def("declare", &fastcells::declare);
  m.def("recurrent_forward", &fastcells::recurrent_forward);
  m.def("recurrent_backward", &fastcells::recurrent_backward);
}
