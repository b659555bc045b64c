// An additive attention call in plain loops of double: what test_cuda_additive.cpp compares the
// CUDA kernels with. Keys that nobody sees are poisoned once the results are known.
#pragma once
#include "cases.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <vector>

#include "attention/position.h"

namespace fastcells {

using Values = std::vector<double>;
using Kind = AttentionMask::Kind;

struct Case {
  std::int64_t B, Tq, Tk, D, Ev;
  Kind mask = Kind::kNone;
  int mask_dims = 7;  // bits of the dimensions that the mask has: 1 batch, 2 queries, 4 keys
  bool has_lengths = false;
  double dropout = 0;
  bool is_far = false;  // numbers that need the sum itself, and infinite ones
  bool has_grad_weights = false, keeps_weights = true;
  bool has_low_mask = false;      // of an added mask: numbers as low as float32 has them
  bool has_wild_lengths = false;  // out of range, which must be the nearest in it

  bool is_added() const { return mask == Kind::kAdded || mask == Kind::kAddedWide; }
};

template <class T>
double rounded(double x) {
  return double(float(T(float(x))));
}

// ---- the problem and what is expected, in double ----

struct Problem {
  Case c;
  Values query, key, value, units, bias, grad_output, grad_weights;  // bias: 0 or -inf for bool
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> seed{0x123456789abcdef};  // on the heap

  std::int64_t mask_at(std::int64_t b, std::int64_t i, std::int64_t j) const {
    const std::int64_t q = c.mask_dims & 2 ? c.Tq : 1, k = c.mask_dims & 4 ? c.Tk : 1;
    return ((c.mask_dims & 1 ? b : 0) * q + (c.mask_dims & 2 ? i : 0)) * k +
           (c.mask_dims & 4 ? j : 0);
  }
  std::int64_t mask_count() const {
    return (c.mask_dims & 1 ? c.B : 1) * (c.mask_dims & 2 ? c.Tq : 1) *
           (c.mask_dims & 4 ? c.Tk : 1);
  }
  std::int64_t length(std::int64_t b) const { return c.has_lengths ? lengths[b] : c.Tk; }
  // [B, Tk]: keys that some query sees, mask and all.
  std::vector<unsigned char> seen_keys() const {
    std::vector<unsigned char> seen(std::size_t(c.B * c.Tk), 0);
    for (std::int64_t n = 0; n < c.B * c.Tq * c.Tk; ++n) {
      const std::int64_t b = n / c.Tk / c.Tq, i = n / c.Tk % c.Tq, j = n % c.Tk;
      seen[b * c.Tk + j] |= j < length(b) && (c.mask == Kind::kNone || !hides(b, i, j));
    }
    return seen;
  }
  bool hides(std::int64_t b, std::int64_t i, std::int64_t j) const {
    return bias[mask_at(b, i, j)] == -INFINITY;
  }
  // What nobody sees holds what must not be read.
  void poison() {
    const auto seen = seen_keys();
    for (std::int64_t k = 0; k < c.B * c.Tk; ++k) {
      if (seen[k]) continue;
      std::fill_n(key.begin() + k * c.D, c.D, NAN);
      std::fill_n(value.begin() + k * c.Ev, c.Ev, NAN);
    }
  }
  double keep(std::int64_t b, std::int64_t i, std::int64_t j) const {
    if (c.dropout == 0) return 1;
    std::uint32_t word[4];
    Philox::words(std::uint64_t(seed[0]), std::uint32_t(j / 4), std::uint32_t(i), std::uint32_t(b),
                  word);
    return word[j % 4] >= dropout_threshold(c.dropout) ? 1 / (1 - c.dropout) : 0;
  }
};

template <class T>
Problem make_problem(const Case& c) {
  std::mt19937 random(unsigned(c.Tq * 31 + c.Tk * 7 + c.D));
  const auto draw = [&](std::int64_t count, double size) {
    std::uniform_real_distribution<double> uniform(-size, size);
    Values x(std::size_t(count), 0.0);
    for (double& v : x) v = rounded<T>(uniform(random));
    return x;
  };
  Problem p{c,
            draw(c.B * c.Tq * c.D, 1.5),
            draw(c.B * c.Tk * c.D, 1.5),
            draw(c.B * c.Tk * c.Ev, 1),
            {},
            {},
            draw(c.B * c.Tq * c.Ev, 1),
            draw(c.B * c.Tq * c.Tk, 1),
            {}};
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (std::int64_t d = 0; d < c.D; ++d) p.units.push_back(double(float(uniform(random))));
  if (c.is_far) {
    // Every third unit: a query far out, which the keys bring back; some numbers are infinite.
    for (std::int64_t n = 0; n < c.B * c.Tq * c.D; n += 3) p.query[n] += n / c.D % 2 ? 40 : -24;
    for (std::int64_t n = 0; n < c.B * c.Tk * c.D; n += 3) p.key[n] += n / c.D % 2 ? 24 : -40;
    for (Values* x : {&p.query, &p.key}) {
      for (double& v : *x) v = rounded<T>(v);
    }
    p.query[1] = INFINITY, p.key[0] = -INFINITY;
  }
  const std::int64_t mask_row = c.mask_dims & 4 ? c.Tk : 1;
  for (std::int64_t n = 0; n < p.mask_count(); ++n) {
    const bool of_nobody = (c.mask_dims & 4) != 0 && c.Tk > 3 && n % c.Tk % 5 == 2;
    const bool of_query = (c.mask_dims & 2) != 0 && n < mask_row;  // all of a query
    const bool hides = random() % 4 == 0 || of_nobody || of_query;
    double added = c.mask == Kind::kBool ? 0 : rounded<T>(uniform(random));
    if (c.has_low_mask && (n / mask_row % 3 == 1 || added > 0)) added = -FLT_MAX;
    p.bias.push_back(hides ? -INFINITY : added);
  }
  for (std::int64_t b = 0; b < c.B; ++b) {
    p.lengths.push_back(b == 1 ? 0 : c.has_wild_lengths ? c.Tk : c.Tk - c.Tk / 3);
  }
  return p;
}

struct Results {
  Values output, logsumexp, weights, d_query, d_key, d_value, d_units, d_mask;
  explicit Results(const Case& c, std::int64_t mask_count)
      : output(c.B * c.Tq * c.Ev),
        logsumexp(c.B * c.Tq * 2),
        weights(c.B * c.Tq * c.Tk),
        d_query(c.B * c.Tq * c.D),
        d_key(c.B * c.Tk * c.D),
        d_value(c.B * c.Tk * c.Ev),
        d_units(c.D),
        d_mask(mask_count) {}
};

// One row: softmax, output and all that its gradient adds to.
inline void add_row(const Problem& p, std::int64_t b, std::int64_t i, Results& r) {
  const Case& c = p.c;
  const std::int64_t row = b * c.Tq + i, length = p.length(b);
  const auto tanh_of = [&](std::int64_t j, std::int64_t d) {
    return std::tanh(p.query[row * c.D + d] + p.key[(b * c.Tk + j) * c.D + d]);
  };
  Values w(length), dw(length);
  double sum = 0, most = -1e300;
  for (std::int64_t j = 0; j < length; ++j) {
    double& score = w[j] = c.mask == Kind::kNone ? 0 : p.bias[p.mask_at(b, i, j)];
    for (std::int64_t d = 0; d < c.D; ++d) score += p.units[d] * tanh_of(j, d);
    most = std::max(most, score);
  }
  for (double& x : w) sum += x = std::exp(x - most);
  r.logsumexp[2 * row] = sum > 0 || sum != sum ? most : -INFINITY;
  r.logsumexp[2 * row + 1] = sum > 0 || sum != sum ? std::log(sum) : 0;
  double delta = 0;
  for (std::int64_t j = 0; j < length; ++j) {
    w[j] = sum > 0 || sum != sum ? w[j] / sum : 0;
    const double keep = p.keep(b, i, j);
    r.weights[row * c.Tk + j] = w[j] * keep;
    dw[j] = c.has_grad_weights ? p.grad_weights[row * c.Tk + j] : 0;
    for (std::int64_t e = 0; e < c.Ev; ++e) {
      const double v = p.value[(b * c.Tk + j) * c.Ev + e], d_output = p.grad_output[row * c.Ev + e];
      r.output[row * c.Ev + e] += w[j] * keep * v;
      dw[j] += d_output * v;
      r.d_value[(b * c.Tk + j) * c.Ev + e] += w[j] * keep * d_output;
    }
    dw[j] *= keep;
    delta += w[j] * dw[j];
  }
  for (std::int64_t j = 0; j < length; ++j) {
    const double ds = w[j] * (dw[j] - delta);
    if (c.is_added()) r.d_mask[p.mask_at(b, i, j)] += ds;
    for (std::int64_t d = 0; d < c.D; ++d) {
      const double t = tanh_of(j, d), slope = ds * p.units[d] * (1 - t * t);
      r.d_query[row * c.D + d] += slope;
      r.d_key[(b * c.Tk + j) * c.D + d] += slope;
      r.d_units[d] += ds * t;
    }
  }
}
inline Results expected_of(const Problem& p) {
  Results r(p.c, p.mask_count());
  for (std::int64_t b = 0; b < p.c.B; ++b) {
    for (std::int64_t i = 0; i < p.c.Tq; ++i) add_row(p, b, i, r);
  }
  return r;
}

}  // namespace fastcells
