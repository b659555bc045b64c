// The CUDA step kernel, under the emulator or on a card: every element once whatever the grid, and
// each cell's steps in 16-bit storage as the same structs give them in a loop.
#include "cases.h"

#include "recurrent/cuda/step.cuh"

#include <algorithm>
#include <array>
#include <random>

#include "recurrent/cells/dispatch.h"

namespace fastcells {
namespace {

struct Count {
  int* times;
  std::int64_t units;
  FC_HD void operator()(std::int64_t b, std::int64_t u) const { ++times[b * units + u]; }
};

bool check_grid() {
  bool ok = true;
  for (const auto& [rows, units, blocks] : {std::array<std::int64_t, 3>{1, 1, 1},
                                            {3, 100, 2},
                                            {7, 333, 10},
                                            {5, 300, 2},
                                            {2, 700, 1}}) {
    char name[100];
    std::snprintf(name, sizeof name, "every element once: %d rows, %d units, %d blocks", int(rows),
                  int(units), int(blocks));
    ok &= run_case(name, [&, rows = rows, units = units, blocks = blocks] {
      std::vector<int> times(std::size_t(rows * units), 0);
      simt::launch({unsigned(blocks)}, {unsigned(kStepThreads)}, 0, {}, step_kernel<Count>,
                   Count{times.data(), units}, rows, units);
      const auto once = std::count(times.begin(), times.end(), 1);
      return end_case(double(rows * units - once), 0);
    });
  }
  return ok;
}

// The emulator runs the same code as the loop; a card's exponentials have other last bits, which
// storage may round to its next number.
#ifdef __CUDACC__
constexpr double kFloatError = 1e-5;
template <class T>
constexpr double kStoredError = std::is_same_v<T, __half> ? 0x1p-10 : 0x1p-7;
#else
constexpr double kFloatError = 0;
template <class T>
constexpr double kStoredError = 0;
#endif

template <class T>
constexpr bool is_half = std::is_same_v<T, __half>;

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
  // Of equal bits none, else in units of kError over 1 + the number's size.
  double worst_share(const Buffer& other) const {
    constexpr double kError = sizeof(T) == 4 ? kFloatError : kStoredError<T>;
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::memcmp(&values[i], &other.values[i], sizeof(T)) == 0) continue;
      const double x = double(float(values[i])), y = double(float(other.values[i]));
      const double share = std::fabs(x - y) / (kError * (1 + std::fabs(y)));
      worst = share >= worst ? share : std::isnan(share) ? INFINITY : worst;
    }
    return worst;
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
    a.t = 1, a.H = a.P = H, a.C = H * (Cell::kStates - 1);
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
    a.t = 1, a.H = a.P = H, a.C = H * (Cell::kStates - 1);
    a.d_output = d_output.values.data(), a.d_cells = d_cells.values.data();
    a.saved = saved.values.data(), a.cells_all = cells.values.data();
    a.h_previous = h_previous.values.data(), a.carry_dh = carry_dh.values.data();
    a.product_dh = product.values.data();
    a.carry_dc = Cell::kStates == 2 ? carry_dc.values.data() : nullptr;
    a.dx_gates = dx.values.data(), a.dg_gates = Cell::kAdditive ? a.dx_gates : dg.values.data();
    a.d_output_stride = a.d_cells_stride = a.cells_all_stride = H, a.saved_stride = S * H;
    return a;
  }

  // The largest difference, in units of what it may be.
  double worst_share(const Step& other) const {
    const auto shares = [&](auto... member) {
      return std::max({(this->*member).worst_share(other.*member)...});
    };
    return shares(&Step::carry_c, &Step::cells, &Step::carry_dh, &Step::product, &Step::carry_dc,
                  &Step::d_cells, &Step::carry_h, &Step::output, &Step::saved, &Step::dx,
                  &Step::dg);
  }
};

template <class Cell, class T>
bool check_cell() {
  using Types = fastcells::Types<T, T, float>;
  const std::string name = std::string(Cell::kName) + (is_half<T> ? " float16" : " bfloat16");
  return run_case(name, [] {
    Step<Cell, T> on_device, in_loop;
    const auto run = [](auto step, auto same_step) {
      simt::launch({2}, {unsigned(kStepThreads)}, 0, {}, step_kernel<decltype(step)>, step, B, H);
      for (std::int64_t b = 0; b < B; ++b) {
        for (std::int64_t u = 0; u < H; ++u) same_step(b, u);
      }
    };
    run(ForwardStep<Cell, Types>{on_device.forward()}, ForwardStep<Cell, Types>{in_loop.forward()});
    run(BackwardStep<Cell, Types>{on_device.backward()},
        BackwardStep<Cell, Types>{in_loop.backward()});
    const Step<Cell, T> untouched;
    const bool is_written =
        !(on_device.output == untouched.output) && !(on_device.dx == untouched.dx);
    return end_case(on_device.worst_share(in_loop), 1, is_written);
  });
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
