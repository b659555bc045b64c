// A random layer of one direction, and its results and gradients by plain loops in double on the
// same Cell struct. Letters as in docs/notation.md. Torch-free.
//
// Rows end early, states are reset, directions run backwards as rows.h says; said again
// here in other words, because this is what the engine is compared with. What no step exists for is
// NaN in the inputs: whoever reads it is found out.
#pragma once
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "recurrent/cells/cells.h"

namespace fastcells {

using Values = std::vector<double>;

struct Case {
  std::int64_t T, B, I, H;
  bool reverse = false, lengths = false, resets = false, bias = true, states = true;
  std::int64_t P = 0;  // units of h where it is projected

  std::int64_t units_of_h() const { return P ? P : H; }
};

template <class Cell>
struct Problem {
  static constexpr int G = Cell::kGates;

  // Values are rounded by `round` to what storage holds; `round_arithmetic` those of d_cells.
  template <class Round, class RoundArithmetic>
  Problem(const Case& c, Round round, RoundArithmetic round_arithmetic) : c(c) {
    const std::int64_t rows = c.T * c.B, gates = G * c.H, P = c.units_of_h();
    if (c.lengths) draw_lengths();
    for (std::int64_t k = 0; k < rows && c.resets; ++k) resets.push_back(generator() % 3 == 0);
    input = normal(rows * c.I, 1, round);
    w_ih = normal(gates * c.I, 1 / std::sqrt(double(c.I)), round);
    w_hh = normal(gates * P, 1 / std::sqrt(double(P)), round);
    w_hr = normal(c.P * c.H, 1 / std::sqrt(double(c.H)), round);
    if (c.bias) b_ih = normal(gates, 0.5, round), b_hh = normal(gates, 0.5, round);
    if (c.states) h_0 = normal(c.B * P, 0.5, round), c_0 = normal(c.B * c.H, 0.5, round);
    d_output = normal(rows * P, 1, round), d_cells = normal(rows * c.H, 1, round_arithmetic);
    d_h_n = normal(c.B * P, 1, round), d_c_n = normal(c.B * c.H, 1, round);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (exists(row)) continue;
      hide(input, row, c.I), hide(d_output, row, P), hide(d_cells, row, c.H);
    }
  }

  template <class Rounding>
  Values normal(std::int64_t count, double scale, Rounding rounding) {
    Values values(count);
    std::normal_distribution<double> distribution(0, scale);
    for (double& value : values) value = rounding(distribution(generator));
    return values;
  }
  std::int64_t length(std::int64_t b) const { return c.lengths ? lengths[b] : c.T; }
  bool exists(std::int64_t row) const { return row / c.B < length(row % c.B); }
  // The state that enters step t of row b is zero.
  bool is_cut(std::int64_t t, std::int64_t b) const {
    const std::int64_t boundary = c.reverse ? t + 1 : t;
    return c.resets && boundary < length(b) && resets[boundary * c.B + b];
  }

  Case c;
  std::mt19937 generator{7};
  std::vector<std::int64_t> lengths;
  std::vector<unsigned char> resets;
  Values input, h_0, c_0, w_ih, w_hh, w_hr, b_ih, b_hh, d_output, d_cells, d_h_n, d_c_n;

 private:
  void draw_lengths() {
    for (std::int64_t b = 0; b < c.B; ++b) lengths.push_back(std::int64_t(generator() % (c.T + 1)));
    lengths[0] = c.T;
    if (c.B > 1) lengths[1] = 0;
  }
  static void hide(Values& values, std::int64_t row, std::int64_t width) {
    for (std::int64_t k = 0; k < width; ++k) values[row * width + k] = NAN;
  }
};

// Zero where a row has no step, but NaN in d_input: left alone.
struct Results {
  Values output, h_n, c_n, cells, saved;
  Values d_input, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h_0, d_c_0;
};

template <class Cell>
class Naive {
  static constexpr int G = Cell::kGates, N = Cell::kStates, K = Cell::kSaved;

 public:
  template <class Round>
  static Results run(const Problem<Cell>& p, Round round) {
    Naive naive(p);
    for (std::int64_t b = 0; b < p.c.B; ++b) {
      naive.forward(b, round);
      naive.backward(b);
    }
    return naive.r_;
  }

 protected:
  explicit Naive(const Problem<Cell>& p) : p_(p) {
    const auto& c = p.c;
    const std::int64_t rows = c.T * c.B, gates = G * c.H;
    const std::int64_t P = c.units_of_h();
    r_.output.assign(rows * P, 0), r_.cells.assign(rows * c.H, 0);
    for (Values* v : {&r_.h_n, &r_.d_h_0}) v->assign(c.B * P, 0);
    for (Values* v : {&r_.c_n, &r_.d_c_0}) v->assign(c.B * c.H, 0);
    for (Values* v : {&r_.d_b_ih, &r_.d_b_hh}) v->assign(gates, 0);
    r_.saved.assign(rows * K * c.H, 0), r_.d_input.assign(rows * c.I, NAN);
    r_.d_w_ih.assign(gates * c.I, 0), r_.d_w_hh.assign(gates * P, 0);
    entering_.resize(rows);
  }

  std::int64_t step(std::int64_t b, std::int64_t i) const {
    return p_.c.reverse ? p_.length(b) - 1 - i : i;
  }
  static Values part(const Values& all, std::int64_t row, std::int64_t width) {
    if (all.empty()) return Values(width, 0);
    return Values(all.begin() + row * width, all.begin() + (row + 1) * width);
  }
  static void put(const Values& from, Values& all, std::int64_t row) {
    std::copy(from.begin(), from.end(), all.begin() + row * std::int64_t(from.size()));
  }
  static Values product(const Values& weight, const Values& bias, const Values& x) {
    const std::int64_t width = std::int64_t(x.size()), gates = std::int64_t(weight.size()) / width;
    Values sums(gates);
    for (std::int64_t m = 0; m < gates; ++m) {
      if (!bias.empty()) sums[m] = bias[m];
      for (std::int64_t k = 0; k < width; ++k) sums[m] += weight[m * width + k] * x[k];
    }
    return sums;
  }

  // Through the products of a row's step, from the gradients of what they give: dh (+)= of h.
  void products_back(std::int64_t row, const Values& dx, const Values& dg, const Values& h,
                     Values& dh) {
    const std::int64_t I = p_.c.I;
    for (std::int64_t k = 0; k < I; ++k) r_.d_input[row * I + k] = 0;
    for (std::int64_t m = 0; m < G * p_.c.H; ++m) {
      through(p_.w_hh, m, dg[m], h, dh, r_.d_w_hh);
      for (std::int64_t k = 0; k < I; ++k) {
        r_.d_input[row * I + k] += p_.w_ih[m * I + k] * dx[m];
        r_.d_w_ih[m * I + k] += dx[m] * p_.input[row * I + k];
      }
    }
  }
  // Back through y = W x: by the gradient d of y's element m.
  static void through(const Values& weight, std::int64_t m, double d, const Values& x, Values& dx,
                      Values& d_weight) {
    const auto width = std::int64_t(x.size());
    for (std::int64_t k = 0; k < width; ++k) {
      dx[k] += weight[m * width + k] * d, d_weight[m * width + k] += d * x[k];
    }
  }
  void add_biases(const Values& dx, const Values& dg) {
    for (std::size_t m = 0; m < dx.size(); ++m) r_.d_b_ih[m] += dx[m], r_.d_b_hh[m] += dg[m];
  }

  const Problem<Cell>& p_;
  Results r_;

 private:
  template <class Round>
  void forward(std::int64_t b, Round round) {
    const std::int64_t H = p_.c.H, B = p_.c.B;
    Values h = part(p_.h_0, b, H), cell = part(p_.c_0, b, H);
    for (std::int64_t i = 0; i < p_.length(b); ++i) {
      const std::int64_t t = step(b, i), row = t * B + b;
      if (p_.is_cut(t, b)) h.assign(H, 0), cell.assign(H, 0);
      entering_[row] = {h, cell};
      const Values x_gates = product(p_.w_ih, p_.b_ih, part(p_.input, row, p_.c.I));
      const Values h_gates = product(p_.w_hh, p_.b_hh, h);
      for (std::int64_t u = 0; u < H; ++u) {
        double x[G], g[G], state[N], saved[K];
        for (int k = 0; k < G; ++k) x[k] = x_gates[k * H + u], g[k] = h_gates[k * H + u];
        state[0] = h[u];
        if constexpr (N == 2) state[1] = cell[u];
        Cell::forward(x, g, state, saved);
        h[u] = round(state[0]);
        if constexpr (N == 2) cell[u] = state[1];
        for (int k = 0; k < K; ++k) r_.saved[(row * K + k) * H + u] = saved[k];
      }
      put(h, r_.output, row), put(cell, r_.cells, row);
    }
    put(h, r_.h_n, b), put(cell, r_.c_n, b);
  }

  void backward(std::int64_t b) {
    const std::int64_t H = p_.c.H, B = p_.c.B;
    Values dh = part(p_.d_h_n, b, H), dc = part(p_.d_c_n, b, H);
    for (std::int64_t i = p_.length(b) - 1; i >= 0; --i) {
      const std::int64_t t = step(b, i), row = t * B + b;
      const auto& [h, cell] = entering_[row];
      Values dx(G * H), dg(G * H);
      for (std::int64_t u = 0; u < H; ++u) {
        double saved[K], prev[N], next[N], d_state[N], dx_unit[G], dg_unit[G];
        for (int k = 0; k < K; ++k) saved[k] = r_.saved[(row * K + k) * H + u];
        prev[0] = h[u], next[0] = NAN, d_state[0] = dh[u] + p_.d_output[row * H + u];
        if constexpr (N == 2) {
          prev[1] = cell[u], next[1] = r_.cells[row * H + u];
          d_state[1] = dc[u] + p_.d_cells[row * H + u];
        }
        Cell::backward(saved, prev, next, d_state, dx_unit, dg_unit);
        for (int k = 0; k < G; ++k) dx[k * H + u] = dx_unit[k], dg[k * H + u] = dg_unit[k];
        dh[u] = d_state[0];
        if constexpr (N == 2) dc[u] = d_state[1];
      }
      products_back(row, dx, dg, h, dh);
      add_biases(dx, dg);
      if (p_.is_cut(t, b)) dh.assign(H, 0), dc.assign(H, 0);
    }
    put(dh, r_.d_h_0, b), put(dc, r_.d_c_0, b);
  }

  std::vector<std::array<Values, 2>> entering_;  // h and c that entered each row's step
};

}  // namespace fastcells
