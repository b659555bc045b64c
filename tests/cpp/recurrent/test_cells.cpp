// Finite-difference check of every cell, in double, on the host: no torch, no GPU.
//
// The loss is a random projection of the new state. A cell with two products a step stands in the
// place it has in an engine: the product is a random scalar w, so that g_n = w (r h).
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

  Trial() : product(uniform(-1, 1)) {
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
    Cell::forward(x, g, next, saved);
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
    Cell::backward(saved, state, next, d_state, dx, dg);
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

}  // namespace

int main() {
  int failed = 0;
  for_each_cell([&](auto tag, CellKind) {
    using Cell = typename decltype(tag)::type;
    double worst = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
      worst = std::fmax(worst, Trial<Cell>().worst());
    }
    const bool ok = worst <= kTolerance;
    std::printf("%-18s %.1e %s\n", Cell::kName, worst, ok ? "ok" : "FAILED");
    failed += !ok;
  });
  return failed != 0;
}
