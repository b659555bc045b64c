// Finite-difference check of every cell, in double, on the host: no torch, no GPU.
//
// The loss is a random projection of the new state. A cell with two products a step stands in the
// place it has in an engine: the product is a random scalar w, so that g_n = w (r h). Elementwise
// cells are differentiated by their unit weights, in front of `prepare`, and the raw input, too.
#include <cmath>
#include <cstdio>
#include <random>

#include "recurrent/cells/dispatch.h"

using namespace fastcells;

namespace {

constexpr double kStep = 1e-6;
constexpr double kTolerance = 2e-9;  // of central differences in double: kStep^2 + 1e-16 / kStep
constexpr int kTrials = 300;

std::mt19937 generator(1);
double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}
template <int N>
void fill(double (&values)[N], double scale) {
  for (double& value : values) value = uniform(-scale, scale);
}

template <class Cell>
struct Trial {
  double x[Cell::kGates], g[Cell::kGates], state[Cell::kStates], weight[Cell::kStates];
  double product;  // kTwoProducts: W_hn as a scalar
  static constexpr int V = vectors_of<Cell>();
  double units[V > 0 ? V : 1];  // of a row cell

  Trial() : product(uniform(-1, 1)) {
    fill(units, 1);
    fill(x, 2);
    fill(g, 2);
    fill(state, 1);
    fill(weight, 1);
  }

  void forward(double (&next)[Cell::kStates], double (&saved)[Cell::kSaved]) {
    for (int k = 0; k < Cell::kStates; ++k) next[k] = state[k];
    if constexpr (Cell::kTwoProducts) {
      g[Cell::kGates - 1] = product * Cell::reset_h(x, g, state[0]);
    }
    if constexpr (V > 0) {
      Cell::forward(x, g, units, next, saved);
    } else {
      Cell::forward(x, g, next, saved);
    }
  }

  double loss() {
    double next[Cell::kStates], saved[Cell::kSaved], sum = 0;
    forward(next, saved);
    for (int k = 0; k < Cell::kStates; ++k) sum += weight[k] * next[k];
    return sum;
  }

  double difference(double& value) {
    const double kept = value;
    value = kept + kStep;
    const double above = loss();
    value = kept - kStep;
    const double below = loss();
    value = kept;
    return (above - below) / (2 * kStep);
  }

  // Largest distance of the analytic gradients from the finite differences.
  double worst() {
    double next[Cell::kStates], saved[Cell::kSaved], d_state[Cell::kStates];
    double dx[Cell::kGates], dg[Cell::kGates], worst = 0;
    forward(next, saved);
    for (int k = 0; k < Cell::kStates; ++k) d_state[k] = weight[k];
    next[0] = NAN;  // the contract: no cell reads its new h here
    if constexpr (V > 0) {
      double d_units[V];
      Cell::backward(saved, units, state, next, d_state, dx, dg, d_units);
      for (int k = 0; k < V; ++k) worst = std::fmax(worst, distance(units[k], d_units[k]));
    } else {
      Cell::backward(saved, state, next, d_state, dx, dg);
    }
    if constexpr (Cell::kTwoProducts) {
      const double d_reset_h = product * dg[Cell::kGates - 1];
      dx[0] = dg[0] = Cell::backward_reset(saved, state[0], d_reset_h, d_state);
    }
    const int products = Cell::kTwoProducts ? Cell::kGates - 1 : Cell::kGates;
    for (int k = 0; k < Cell::kGates; ++k) worst = std::fmax(worst, distance(x[k], dx[k]));
    for (int k = 0; k < products; ++k) worst = std::fmax(worst, distance(g[k], dg[k]));
    for (int k = 0; k < Cell::kStates; ++k)
      worst = std::fmax(worst, distance(state[k], d_state[k]));
    if (Cell::kAdditive) {
      for (int k = 0; k < Cell::kGates; ++k) worst = std::fmax(worst, std::fabs(dx[k] - dg[k]));
    }
    return worst;
  }

  double distance(double& value, double gradient) {
    const double error = std::fabs(difference(value) - gradient);
    return std::isfinite(error) ? error : INFINITY;
  }
};

template <class Cell>
struct ElementwiseTrial {
  static constexpr int V = kUnitSlots<Cell>;
  double x[Cell::kGates], weights[V], raw, state[Cell::kStates], weight[Cell::kStates];

  ElementwiseTrial() : raw(uniform(-1, 1)) {
    fill(x, 2);
    fill(weights, 1);
    fill(state, 1);
    fill(weight, 1);
  }

  void forward(double (&next)[Cell::kStates], double (&saved)[Cell::kSaved], double (&u)[V]) {
    for (int k = 0; k < Cell::kStates; ++k) next[k] = state[k];
    for (int k = 0; k < V; ++k) u[k] = prepared<Cell>(weights[k]);
    Cell::forward(x, u, raw, next, saved);
  }
  double loss() {
    double next[Cell::kStates], saved[Cell::kSaved], u[V], sum = 0;
    forward(next, saved, u);
    for (int k = 0; k < Cell::kStates; ++k) sum += weight[k] * next[k];
    return sum;
  }
  double distance(double& value, double gradient) {
    const double kept = value;
    value = kept + kStep;
    const double above = loss();
    value = kept - kStep;
    const double below = loss();
    value = kept;
    const double error = std::fabs((above - below) / (2 * kStep) - gradient);
    return std::isfinite(error) ? error : INFINITY;
  }

  double worst() {
    double next[Cell::kStates], saved[Cell::kSaved], u[V], d_state[Cell::kStates];
    double dx[Cell::kGates], du[V], d_raw = NAN, worst = 0;
    forward(next, saved, u);
    for (int k = 0; k < Cell::kStates; ++k) d_state[k] = weight[k];
    next[0] = NAN;  // as above: no cell reads its new h here
    Cell::backward(saved, u, raw, state, next, d_state, dx, du, d_raw);
    for (int k = 0; k < Cell::kGates; ++k) worst = std::fmax(worst, distance(x[k], dx[k]));
    for (int k = 0; k < Cell::kUnitWeights; ++k) {
      worst = std::fmax(worst, distance(weights[k], prepared_grad<Cell>(weights[k], du[k])));
    }
    for (int k = 0; k < Cell::kStates; ++k)
      worst = std::fmax(worst, distance(state[k], d_state[k]));
    if (Cell::kReadsInput) worst = std::fmax(worst, distance(raw, d_raw));
    return worst;
  }
};

template <class Trial>
bool check(const char* name) {
  double worst = 0;
  for (int trial = 0; trial < kTrials; ++trial) worst = std::fmax(worst, Trial().worst());
  const bool ok = worst <= kTolerance;
  std::printf("%-18s %.1e %s\n", name, worst, ok ? "ok" : "FAILED");
  return ok;
}

}  // namespace

int main() {
  int failed = 0;
  for_each_cell([&](auto tag, CellKind) {
    using Cell = typename decltype(tag)::type;
    failed += !check<Trial<Cell>>(Cell::kName);
  });
  for_each_row_cell([&](auto tag, CellKind) {
    using Cell = typename decltype(tag)::type;
    failed += !check<Trial<Cell>>(Cell::kName);
  });
  for_each_elementwise_cell([&](auto tag, CellKind) {
    using Cell = typename decltype(tag)::type;
    failed += !check<ElementwiseTrial<Cell>>(Cell::kName);
  });
  return failed != 0;
}
