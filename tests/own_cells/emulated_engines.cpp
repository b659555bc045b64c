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
namespace compiled {

// What export.cuh makes a kernel of, as one.
template <class Own>
__global__ void forward_kernel(typename Own::ForwardArgs a) {
  Own::forward(a);
}
template <class Own>
__global__ void backward_kernel(typename Own::BackwardArgs a) {
  Own::backward(a);
}

template <class Cell, class Args>
void launch_one(Storage storage, const Args& args, Grid grid) {
  const auto run = [&](auto types) {
    using Own = KernelsOf<Cell, decltype(types)>;
    if (grid.blocks == 0) return;
    if constexpr (std::is_same_v<Args, typename Own::ForwardArgs>) {
      simt::launch({grid.blocks}, {grid.threads}, grid.shared_bytes, {}, forward_kernel<Own>, args);
    } else if constexpr (std::is_same_v<Args, typename Own::BackwardArgs>) {
      simt::launch({grid.blocks}, {grid.threads}, grid.shared_bytes, {}, backward_kernel<Own>,
                   args);
    }
  };
  if (storage == Storage::kFloat64) {
    run(Types<double, double, double>{});
  } else {
    run(Types<float, float, float>{});
  }
}
template <class Args>
int launch_on(CellKind kind, Storage storage, const Args& args, Grid grid) {
  const int place = int(kind) - kFirst;
#define FASTCELLS_LAUNCH(Cell, number) \
  if (place == number) launch_one<Cell>(storage, args, grid);
  FASTCELLS_EACH_CELL(FASTCELLS_LAUNCH)
  return 0;
}

bool has_image(CellKind, Storage) { return true; }
int launch(CellKind kind, Storage storage, const StepForwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_steps(a.rows.B * a.H));
}
int launch(CellKind kind, Storage storage, const StepBackwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_steps(a.rows.B * a.H));
}
int launch(CellKind kind, Storage storage, const LaneForwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_lanes(a.rows.B * a.H));
}
int launch(CellKind kind, Storage storage, const LaneBackwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_lanes(a.rows.B * a.H));
}
int launch(CellKind kind, Storage storage, const RowForwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_rows(a.rows.B, a.H));
}
int launch(CellKind kind, Storage storage, const RowBackwardArgs& a, void*) {
  return launch_on(kind, storage, a, grid_of_rows(a.rows.B, a.H));
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
template <class F>
int with_types(Storage storage, const F& f) {
  if (storage == Storage::kFloat64) {
    f(Types<double, double, double>{});
  } else {
    f(Types<float, float, float>{});
  }
  return 0;
}

class EmulatedStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    if (!knows_no_cell(stage)) {
      compiled::launch(layer.cell.kind, layer.storage, args, nullptr);
      return;
    }
    with_types(layer.storage, [&](auto types) {
      run_forward_of_any_cell<decltype(types)>(stage, args, Emulated{});
    });
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    if (!knows_no_cell(stage)) {
      compiled::launch(layer.cell.kind, layer.storage, args, nullptr);
      return;
    }
    with_types(layer.storage, [&](auto types) {
      run_backward_of_any_cell<decltype(types)>(stage, args, Emulated{});
    });
  }
  at::ScalarType operand(const Layer& layer) const override { return layer.input.scalar_type(); }
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

// Makes a cell known, of both storages; its place follows from the order. facts: gates, states,
// saved, unit weights, is additive, is elementwise, takes whole rows.
void declare(std::string name, c10::List<int64_t> facts) {
  static std::deque<std::string> names;  // nothing in them moves
  static std::deque<compiled::CellLibrary> libraries;
  names.push_back(name);
  for (const Storage storage : {Storage::kFloat32, Storage::kFloat64}) {
    compiled::CellLibrary& library = libraries.emplace_back();
    library.layout = compiled::kLayout, library.name = names.back().c_str();
    library.gates = int(facts[0]), library.states = int(facts[1]), library.saved = int(facts[2]);
    library.unit_weights = int(facts[3]), library.additive = facts[4] != 0;
    library.is_elementwise = facts[5] != 0, library.whole_rows = facts[6] != 0;
    library.storage = storage;
    compiled::take(library);
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

TORCH_LIBRARY(fastcells_emulated, m) {
  m.def("declare(str name, int[] facts) -> ()", &fastcells::declare);
  m.def(
      "recurrent_forward(str cell, int directions, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, str names, Tensor? lengths, Tensor? resets, str keep) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved)");
  m.def(
      "recurrent_backward(str cell, int directions, Tensor? grad_output, Tensor? grad_h_n, "
      "Tensor? grad_c_n, Tensor? grad_cells, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, str names, Tensor? lengths, Tensor? resets, Tensor output, "
      "Tensor cells, Tensor saved, bool[] needs) "
      "-> (Tensor grad_input, Tensor grad_h_0, Tensor grad_c_0, Tensor[] grad_weights)");
}
TORCH_LIBRARY_IMPL(fastcells_emulated, CPU, m) {
  m.impl("recurrent_forward", &fastcells::recurrent_forward);
  m.impl("recurrent_backward", &fastcells::recurrent_backward);
}
