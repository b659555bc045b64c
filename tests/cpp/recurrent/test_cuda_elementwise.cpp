// The CUDA kernels of elementwise cells, under the emulator or on a card, against a plain loop over
// each row's steps in double: every cell, storage, direction, with lengths and resets. What no step
// reads is NaN, and so is what is to be written.
#include "cases.h"

#include "recurrent/elementwise/cuda/lanes.cuh"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

namespace fastcells {
namespace {

constexpr std::int64_t T = 11, B = 3, H = 45;  // two blocks and a part of a third
constexpr std::int64_t kLengths[B] = {11, 0, 6};

template <class X>
std::vector<X> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, 0.7);
  std::vector<X> values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(X(float(normal(random))));
  return values;
}
template <class X>
std::vector<X> poison(std::size_t count) {
  return std::vector<X>(count, X(NAN));
}

// Largest difference, over 1 + the number's size.
template <class X>
double distance(const std::vector<X>& found, const std::vector<double>& wanted) {
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::fabs(double(found[i]) - wanted[i]) / (1 + std::fabs(wanted[i]));
    worst = error <= worst ? worst : std::isnan(error) ? INFINITY : error;
  }
  return worst;
}

template <class Cell, class Types>
struct Problem {
  using A = typename Types::A;
  using S = typename Types::T;
  static constexpr int G = Cell::kGates, V = Cell::kUnitWeights, K = Cell::kSaved;
  static constexpr bool kHasC = Cell::kStates == 2;
  static constexpr std::size_t kLanes = B * H, kSteps = T * kLanes;
  const bool reverse, has_rows;
  const std::int64_t I;
  bool resets[T * B] = {};
  std::vector<A> x_gates = random_values<A>(kSteps * G, 1), d_cells = random_values<A>(kSteps, 2);
  std::vector<S> input, bias = random_values<S>(H * G, 4), h_0 = random_values<S>(kLanes, 5);
  std::vector<S> c_0 = random_values<S>(kLanes, 6), units = random_values<S>(H * (V + 1), 7);
  std::vector<S> scale = random_values<S>(H, 8), d_output = random_values<S>(kSteps, 9);
  std::vector<S> d_h_n = random_values<S>(kLanes, 10), d_c_n = random_values<S>(kLanes, 11);

  std::vector<S> output = poison<S>(kSteps), h_n = poison<S>(kLanes), c_n = poison<S>(kLanes);
  std::vector<S> saved = poison<S>(kSteps * K), dx = poison<S>(kSteps * G);
  std::vector<A> cells = poison<A>(kSteps), d_raw = poison<A>(kSteps);
  std::vector<A> d_units = poison<A>(kLanes * (V + 1)), d_h_0 = poison<A>(kLanes);
  std::vector<A> d_c_0 = poison<A>(kLanes);

  Problem(bool reverse_, bool has_rows_)
      : reverse(reverse_), has_rows(has_rows_), I(reverse_ ? 2 * H : H) {
    input = random_values<S>(T * B * I, 3);
    for (std::int64_t i : {0, 5, 14, 17}) resets[i] = true;
    for (std::int64_t t = 0; t < T && has_rows; ++t) {
      for (std::int64_t b = 0; b < B; ++b) {
        if (t < kLengths[b]) continue;
        const std::int64_t row = t * B + b;
        std::fill_n(x_gates.begin() + row * G * H, G * H, A(NAN));
        std::fill_n(input.begin() + row * I, I, S(NAN));
        std::fill_n(d_output.begin() + row * H, H, S(NAN));
        std::fill_n(d_cells.begin() + row * H, H, A(NAN));
      }
    }
  }
  std::int64_t length(std::int64_t b) const { return has_rows ? kLengths[b] : T; }
  // Whether a reset parts step t of a row from the one computed before it.
  bool is_parted(std::int64_t t, std::int64_t b) const {
    const std::int64_t boundary = reverse ? t + 1 : t;
    return has_rows && boundary < length(b) && resets[boundary * B + b];
  }

  void fill(LaneArgs& a) {
    a.rows = {has_rows ? kLengths : nullptr, has_rows ? resets : nullptr, T, B, reverse};
    a.H = H, a.I = I, a.raw_column = reverse ? H : 0;
    a.input = input.data(), a.h_0 = h_0.data(), a.c_0 = kHasC ? c_0.data() : nullptr;
    a.unit_weights = V ? units.data() : nullptr;
    a.skip_scale = Cell::kReadsInput ? scale.data() : nullptr;
    a.output_stride = a.cells_stride = H, a.saved_stride = K * H;
  }
  template <class OneLane>
  static void launch(const OneLane& lane) {
    simt::launch({unsigned((kLanes + kLaneThreads - 1) / kLaneThreads)}, {unsigned(kLaneThreads)},
                 0, {}, lane_kernel<OneLane>, lane, B, H);
  }
  void run() {
    LaneForwardArgs f{};
    fill(f);
    f.x_gates = x_gates.data(), f.bias = bias.data(), f.output = output.data();
    f.h_n = h_n.data(), f.saved = saved.data();
    if (kHasC) f.c_n = c_n.data(), f.cells = cells.data();
    launch(ForwardLane<Cell, Types>(f));
    LaneBackwardArgs b{};
    fill(b);
    b.output = output.data(), b.saved = saved.data(), b.d_output = d_output.data();
    b.d_h_n = d_h_n.data(), b.dx_gates = dx.data(), b.d_h_0 = d_h_0.data();
    b.d_units = d_units.data(), b.d_raw = d_raw.data();
    if (kHasC) {
      b.cells = cells.data(), b.d_cells = d_cells.data();
      b.d_c_n = d_c_n.data(), b.d_c_0 = d_c_0.data();
    }
    launch(BackwardLane<Cell, Types>(b));
  }

  // ---- the same in double ----

  struct Wanted {
    std::vector<double> output, cells, h_n, c_n, dx, d_raw, d_units, d_h_0, d_c_0;
  };
  void run_lane(std::int64_t b, std::int64_t u, Wanted& to) const {
    constexpr int N = Cell::kStates;
    const std::int64_t steps = length(b), lane = b * H + u;
    double u_raw[kUnitSlots<Cell>] = {}, own[kUnitSlots<Cell>] = {}, state[N];
    for (int k = 0; k < V; ++k)
      u_raw[k] = double(units[k * H + u]), own[k] = prepared<Cell>(u_raw[k]);
    const double factor = Cell::kReadsInput ? double(scale[u]) : 1;
    state[0] = double(h_0[lane]);
    if (kHasC) state[N - 1] = double(c_0[lane]);
    struct Step {
      double saved[K], prev[N], next[N], unscaled;
      std::int64_t t;
      bool parted;
    };
    std::vector<Step> past;
    for (std::int64_t i = 0; i < steps; ++i) {
      Step s{};
      s.t = reverse ? steps - 1 - i : i;
      s.parted = is_parted(s.t, b);
      if (s.parted) std::fill_n(state, N, 0.0);
      std::copy_n(state, N, s.prev);
      const std::int64_t row = s.t * B + b;
      double x[G];
      for (int k = 0; k < G; ++k) {
        x[k] = double(x_gates[(row * G + k) * H + u]) + double(bias[k * H + u]);
      }
      s.unscaled = Cell::kReadsInput ? double(input[row * I + (reverse ? H : 0) + u]) : 0;
      Cell::forward(x, own, s.unscaled * factor, state, s.saved);
      std::copy_n(state, N, s.next);
      past.push_back(s);
      to.output[row * H + u] = state[0];
      if (kHasC) to.cells[row * H + u] = state[N - 1];
    }
    to.h_n[lane] = state[0];
    if (kHasC) to.c_n[lane] = state[N - 1];
    double d_state[N] = {double(d_h_n[lane])}, sums[V + 1] = {};
    if (kHasC) d_state[N - 1] = double(d_c_n[lane]);
    for (std::size_t i = past.size(); i-- > 0;) {
      const Step& s = past[i];
      const std::int64_t row = s.t * B + b;
      double d_gates[G], du[kUnitSlots<Cell>] = {}, d_read = 0;
      d_state[0] += double(d_output[row * H + u]);
      if (kHasC) d_state[N - 1] += double(d_cells[row * H + u]);
      Cell::backward(s.saved, own, s.unscaled * factor, s.prev, s.next, d_state, d_gates, du,
                     d_read);
      for (int k = 0; k < G; ++k) to.dx[(row * G + k) * H + u] = d_gates[k];
      for (int k = 0; k < V; ++k) sums[k] += prepared_grad<Cell>(u_raw[k], du[k]);
      sums[V] += d_read * s.unscaled;
      to.d_raw[row * H + u] = d_read * factor;
      if (s.parted) std::fill_n(d_state, N, 0.0);
    }
    to.d_h_0[lane] = d_state[0];
    if (kHasC) to.d_c_0[lane] = d_state[N - 1];
    for (int k = 0; k <= V; ++k) to.d_units[k * kLanes + lane] = sums[k];
  }
  double worst() {
    run();
    const auto zeros = [](std::size_t count) { return std::vector<double>(count, 0.0); };
    Wanted to{zeros(kSteps),           zeros(kSteps),     zeros(kLanes),
              zeros(kLanes),           zeros(kSteps * G), zeros(kSteps),
              zeros(kLanes * (V + 1)), zeros(kLanes),     zeros(kLanes)};
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t u = 0; u < H; ++u) run_lane(b, u, to);
    }
    double worst = std::max({distance(output, to.output), distance(h_n, to.h_n),
                             distance(dx, to.dx), distance(d_h_0, to.d_h_0)});
    if (kHasC) {
      worst = std::max(
          {worst, distance(cells, to.cells), distance(c_n, to.c_n), distance(d_c_0, to.d_c_0)});
    }
    if (Cell::kReadsInput) worst = std::max(worst, distance(d_raw, to.d_raw));
    if (!Cell::kReadsInput) d_units.resize(kLanes * V);
    return std::max(worst, distance(d_units, to.d_units));
  }
};

// Of sums over eleven steps; what is stored in 16 bits is rounded once on the way, and h and the
// gates once more on the way back.
template <class S>
constexpr double kBound = sizeof(S) == 8              ? 1e-13
                          : sizeof(S) == 4            ? 3e-6
                          : std::is_same_v<S, __half> ? 8e-3
                                                      : 6e-2;

template <class Cell, class S, class A>
bool check(const char* storage) {
  bool ok = true;
  for (const bool reverse : {false, true}) {
    for (const bool has_rows : {false, true}) {
      const std::string name = std::string(Cell::kName) + " " + storage +
                               (reverse ? ", back in time" : "") +
                               (has_rows ? ", lengths and resets" : "");
      ok &= run_case(name, [&] {
        using P = Problem<Cell, Types<S, S, A>>;
        P once(reverse, has_rows), again(reverse, has_rows);
        const double worst = once.worst();
        again.run();
        const bool is_same =
            std::memcmp(once.dx.data(), again.dx.data(), once.dx.size() * sizeof(S)) == 0;
        return end_case(worst, kBound<S>, is_same);
      });
    }
  }
  return ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  bool ok = true;
  for_each_elementwise_cell([&](auto cell, CellKind) {
    using Cell = typename decltype(cell)::type;
    ok &= check<Cell, float, float>("float32");
    if (is_short()) return;
    ok &= check<Cell, double, double>("float64") & check<Cell, __half, float>("float16");
    ok &= check<Cell, __nv_bfloat16, float>("bfloat16");
  });
  return ok ? 0 : 1;
}
