// A scan and its gradients in plain loops, one number at a time in complex<double>. Rows end early,
// states are reset, directions run backwards as rows.h says; said again here. What does not exist
// is NaN.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <random>
#include <vector>

namespace fastcells {

using Exact = std::complex<double>;
using Exacts = std::vector<Exact>;

struct Case {
  std::int64_t T, B, H, chunks;
  bool reverse, lengths, resets, h_0;
  enum Factor { kFull, kUnit, kRow } factor = kFull;  // [T, B, H], [H], [T, B, 1]
  // Factors of the middle half have a product beyond every range, and what they multiply is zero.
  bool overflows = false;
};

// `rounded(x)` is x as it is stored.
template <class Rounded>
class Problem {
 public:
  Problem(const Case& c, const Rounded& rounded)
      : c(c), rounded_(rounded), random_(unsigned(c.T * 131 + c.B * 17 + c.H)) {
    for (std::int64_t row = 0; row < c.B; ++row) {
      lengths.push_back(!c.lengths || row == 0 ? c.T : row == 1 ? 0 : c.T * (row % 5) / 5);
    }
    for (std::int64_t i = 0; i < c.T * c.B; ++i) resets.push_back(random_() % 5 == 0);
    if (!resets.empty()) resets[0] = true;
    for (std::int64_t row = 0; row < c.B; ++row) {  // behind its end: nothing
      if (lengths[row] < c.T) resets[lengths[row] * c.B + row] = true;
    }
    const std::int64_t factors = c.factor == Case::kFull   ? count()
                                 : c.factor == Case::kUnit ? c.H
                                                           : c.T * c.B;
    a = numbers(factors, 0.6), b = numbers(count(), 1), grad = numbers(count(), 1);
    h_0 = numbers(c.B * c.H, 1);
    for (std::int64_t i = 0; i < count(); ++i) {
      if (i / (c.B * c.H) < lengths[i % (c.B * c.H) / c.H]) continue;
      b[i] = grad[i] = {NAN, NAN};
      if (c.factor == Case::kFull) a[i] = {NAN, NAN};
    }
    if (c.overflows) overflow();
    compute();
  }

  std::int64_t count() const { return c.T * c.B * c.H; }
  std::int64_t lanes() const { return c.B * c.H; }

  const Case c;
  std::vector<std::int64_t> lengths;
  std::vector<unsigned char> resets;
  Exacts a, b, grad, h_0;               // as they are stored
  Exacts h, d_b, d_a, d_a_sums, d_h_0;  // d_a of the h that is stored; its sums are [B, H]

 private:
  Exacts numbers(std::int64_t count, double scale) {
    std::normal_distribution<double> normal(0, scale);
    const auto next = [&] { return std::clamp(normal(random_), -1.5 * scale, 1.5 * scale); };
    Exacts all;
    for (std::int64_t i = 0; i < count; ++i) {
      const double re = next(), im = next();
      all.push_back(rounded_({re, im}));
    }
    return all;
  }
  void overflow() {
    const std::int64_t low = c.T / 4, high = c.T - low;
    for (std::int64_t i = 0; i < count(); ++i) {
      const std::int64_t t = i / lanes();
      if (t >= low && t < high) a[i] = 1e4;
      if (c.reverse ? t >= low : t < high) b[i] = 0;
      if (c.reverse ? t < high : t >= low) grad[i] = 0;
    }
  }
  Exact factor(std::int64_t t, std::int64_t row, std::int64_t u) const {
    return c.factor == Case::kFull   ? a[(t * c.B + row) * c.H + u]
           : c.factor == Case::kUnit ? a[u]
                                     : a[t * c.B + row];
  }

  void compute() {
    h.assign(count(), {}), d_b = d_a = h;
    d_h_0.assign(lanes(), {}), d_a_sums = d_h_0;
    for (std::int64_t i = 0; i < lanes(); ++i) compute_lane(i);
  }
  void compute_lane(std::int64_t i) {
    const std::int64_t row = i / c.H, length = lengths[row];
    const auto at = [&](std::int64_t t) { return t * lanes() + i; };
    const auto step = [&](std::int64_t k) { return c.reverse ? length - 1 - k : k; };
    const auto is_cut = [&](std::int64_t t) {
      const std::int64_t boundary = c.reverse ? t + 1 : t;
      return c.resets && boundary < length && resets[boundary * c.B + row];
    };
    Exact state = c.h_0 ? h_0[i] : Exact();
    Exacts before;  // as the way back is given it
    for (std::int64_t k = 0; k < length; ++k) {
      const std::int64_t t = step(k);
      if (is_cut(t)) state = 0;
      before.push_back(rounded_(state));
      h[at(t)] = state = factor(t, row, i % c.H) * state + b[at(t)];
    }
    Exact carry;
    for (std::int64_t k = length - 1; k >= 0; --k) {
      const std::int64_t t = step(k);
      d_b[at(t)] = grad[at(t)] + carry;
      d_a[at(t)] = d_b[at(t)] * std::conj(before[k]);
      d_a_sums[i] += d_a[at(t)];
      carry = is_cut(t) ? Exact() : std::conj(factor(t, row, i % c.H)) * d_b[at(t)];
    }
    d_h_0[i] = carry;
  }

  const Rounded rounded_;
  std::mt19937 random_;
};

// Largest difference, over 1 + the expected size; infinite where it is not a number.
// `exact(k)` is what was found at k.
template <class Found>
double worst(const Exacts& expected, const Found& exact) {
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(exact(i) - expected[i]) / (1 + std::abs(expected[i]));
    if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
  }
  return error;
}

}  // namespace fastcells
