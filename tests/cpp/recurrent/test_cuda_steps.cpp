// The CUDA step kernel under the emulator: every element once whatever the grid, and each cell's
// steps in 16-bit storage as the same structs give them in a loop.
#define FASTCELLS_EMULATED
#include "recurrent/cuda/step.cuh"

#include <cstdio>
#include <random>

#include "recurrent/cells/dispatch.h"
#include "simt/ptx.h"

namespace fastcells {
namespace {

struct Count {
  int* times;
  std::int64_t units;
  void operator()(std::int64_t b, std::int64_t u) const { ++times[b * units + u]; }
};

bool check_grid() {
  bool ok = true;
  for (const auto& [rows, units, blocks] : {std::array<std::int64_t, 3>{1, 1, 1},
                                            {3, 100, 2},
                                            {7, 333, 10},
                                            {5, 300, 2},
                                            {2, 700, 1}}) {
    std::vector<int> times(std::size_t(rows * units), 0);
    simt::launch({unsigned(blocks)}, unsigned(kStepThreads), 0, {}, step_kernel<Count>,
                 Count{times.data(), units}, rows, units);
    for (const int count : times) ok = ok && count == 1;
  }
  std::printf("every element once: %s\n", ok ? "ok" : "FAILED");
  return ok;
}

// Random values of a type, everything that a step of B rows of H units may read or write.
template <class T>
struct Buffer {
  std::vector<T> values;
  Buffer(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < count; ++i) values.push_back(T(normal(random)));
  }
  bool operator==(const Buffer& other) const {
    return std::memcmp(values.data(), other.values.data(), values.size() * sizeof(T)) == 0;
  }
};

constexpr std::int64_t B = 3, H = 37, kSteps = 2;

// One set of buffers for a forward step and a backward step at t = 1.
template <class Cell, class T>
struct Step {
  static constexpr std::size_t kUnits = B * H, G = Cell::kGates, S = Cell::kSaved;
  Buffer<float> x_gates{kUnits * G, 1}, h_gates{kUnits * G, 2}, bias{H * G, 3};
  Buffer<float> carry_c{kUnits, 4}, cells{kUnits * kSteps, 5}, carry_dh{kUnits, 6};
  Buffer<float> product{kUnits, 7}, carry_dc{kUnits, 8}, d_cells{kUnits, 9};
  Buffer<T> carry_h{kUnits, 10}, output{kUnits, 11}, saved{kUnits * S, 12}, d_output{kUnits, 13};
  Buffer<T> h_previous{kUnits, 14}, dx{kUnits * G, 15}, dg{kUnits * G, 16};

  StepForwardArgs forward() {
    StepForwardArgs a{};
    a.rows = {nullptr, nullptr, kSteps, B, false};
    a.t = 1, a.H = a.P = H;
    a.x_gates = x_gates.values.data(), a.h_gates = h_gates.values.data();
    a.bias_ih = a.bias_hh = bias.values.data();
    a.carry_h = carry_h.values.data();
    a.carry_c = Cell::kStates == 2 ? carry_c.values.data() : nullptr;
    a.output = output.values.data(), a.cells = cells.values.data(), a.saved = saved.values.data();
    a.output_stride = a.cells_stride = H, a.saved_stride = S * H;
    return a;
  }
  StepBackwardArgs backward() {
    StepBackwardArgs a{};
    a.rows = {nullptr, nullptr, kSteps, B, false};
    a.t = 1, a.H = a.P = H;
    a.d_output = d_output.values.data(), a.d_cells = d_cells.values.data();
    a.saved = saved.values.data(), a.cells_all = cells.values.data();
    a.h_previous = h_previous.values.data(), a.carry_dh = carry_dh.values.data();
    a.product_dh = product.values.data();
    a.carry_dc = Cell::kStates == 2 ? carry_dc.values.data() : nullptr;
    a.dx_gates = dx.values.data(), a.dg_gates = Cell::kAdditive ? a.dx_gates : dg.values.data();
    a.d_output_stride = a.d_cells_stride = a.cells_all_stride = H, a.saved_stride = S * H;
    return a;
  }
  bool operator==(const Step&) const = default;
};

template <class Cell, class T>
bool check_cell() {
  using Types = fastcells::Types<T, T, float>;
  Step<Cell, T> on_device, in_loop;
  const auto run = [](auto step, auto same_step) {
    simt::launch(2, unsigned(kStepThreads), 0, {}, step_kernel<decltype(step)>, step, B, H);
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t u = 0; u < H; ++u) same_step(b, u);
    }
  };
  run(ForwardStep<Cell, Types>{on_device.forward()}, ForwardStep<Cell, Types>{in_loop.forward()});
  run(BackwardStep<Cell, Types>{on_device.backward()},
      BackwardStep<Cell, Types>{in_loop.backward()});
  const Step<Cell, T> untouched;
  const bool ok = on_device == in_loop && !(on_device.output == untouched.output) &&
                  !(on_device.dx == untouched.dx);
  std::printf("%s: %s\n", Cell::kName, ok ? "ok" : "FAILED");
  return ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  bool ok = check_grid();
  for_each_cell([&](auto cell, CellKind) {
    using Cell = typename decltype(cell)::type;
    ok &= check_cell<Cell, __half>() & check_cell<Cell, __nv_bfloat16>();
  });
  return ok ? 0 : 1;
}
