// Attention by plain loops in double: what the CPU's kernels are tested against.
//
// B batch rows, N heads of queries, Nk of keys, Tq queries and Tk keys of width E, values of width
// Ev; matrices one after the other, [B][N][T][width]. An additive score has one head.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "math/philox.h"

namespace fastcells {

using Values = std::vector<double>;

struct AttentionCase {
  bool is_additive;
  std::int64_t B, N, Nk, Tq, Tk, E, Ev;
  bool is_causal, has_lengths;
  double dropout_p;
  bool is_large;  // numbers beyond what exponentials hold, which cancel

  static constexpr double kScale = 0.3;
  static constexpr std::uint64_t kSeed = 77;

  std::int64_t length(std::int64_t b) const {
    return has_lengths ? (7 * b + Tk / 2) % (Tk + 1) : Tk;
  }
  std::int64_t last_key(std::int64_t b, std::int64_t i) const {
    return is_causal && i + 1 < length(b) ? i + 1 : length(b);
  }
  double keep(std::int64_t head, std::int64_t i, std::int64_t j) const {
    if (dropout_p == 0) return 1;
    std::uint32_t word[4];
    Philox::words(kSeed, std::uint32_t(j / 4), std::uint32_t(i), std::uint32_t(head), word);
    return word[j % 4] >= dropout_threshold(dropout_p) ? 1 / (1 - dropout_p) : 0;
  }
};

struct AttentionTensors {
  Values query, key, value, units, bias, grad_output;                           // in
  Values output, logsumexp, weights, d_query, d_key, d_value, d_units, d_bias;  // out

  explicit AttentionTensors(const AttentionCase& c) {
    const std::int64_t queries = c.B * c.N * c.Tq, keys = c.B * c.Nk * c.Tk;
    std::mt19937 generator(3);
    std::normal_distribution<double> normal;
    const auto fill = [&](Values& x, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) x.push_back(double(float(normal(generator))));
    };
    fill(query, queries * c.E), fill(key, keys * c.E), fill(value, keys * c.Ev);
    fill(units, c.E), fill(bias, queries * c.Tk), fill(grad_output, queries * c.Ev);
    for (std::int64_t i = 0; c.is_large && i < c.Tq; i += 3) query[std::size_t(i * c.E)] = 60;
    for (std::int64_t j = 0; c.is_large && j < c.Tk; j += 2) key[std::size_t(j * c.E)] = -60.5;
    output.resize(std::size_t(queries * c.Ev)), logsumexp.resize(std::size_t(2 * queries));
    weights.resize(bias.size()), d_bias.resize(bias.size()), d_units.resize(units.size());
    d_query.resize(query.size()), d_key.resize(key.size()), d_value.resize(value.size());
  }

  void compute(const AttentionCase& c) {
    for (std::int64_t head = 0; head < c.B * c.N; ++head) {
      for (std::int64_t i = 0; i < c.Tq; ++i) add_query(c, head, i);
    }
  }

 private:
  void add_query(const AttentionCase& c, std::int64_t head, std::int64_t i) {
    const std::int64_t b = head / c.N, row = head * c.Tq + i, last = c.last_key(b, i);
    const std::int64_t keys = (b * c.Nk + head % c.N / (c.N / c.Nk)) * c.Tk;
    double* const w = &weights[std::size_t(row * c.Tk)];
    const double* const q = &query[std::size_t(row * c.E)];
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int64_t j = 0; j < last; ++j) {
      w[j] = score(c, q, &key[std::size_t((keys + j) * c.E)]) + bias[std::size_t(row * c.Tk + j)];
      most = std::fmax(most, w[j]);
    }
    for (std::int64_t j = 0; j < last; ++j) sum += w[j] = std::exp(w[j] - most);
    logsumexp[std::size_t(2 * row)] = most, logsumexp[std::size_t(2 * row + 1)] = std::log(sum);
    const double* const g = &grad_output[std::size_t(row * c.Ev)];
    Values of_weight(std::size_t(c.Tk), 0.0);
    double delta = 0;
    for (std::int64_t j = 0; j < last; ++j) {
      const double keep = c.keep(head, i, j), kept = w[j] / sum * keep;
      for (std::int64_t e = 0; e < c.Ev; ++e) {
        const auto v = std::size_t((keys + j) * c.Ev + e);
        output[std::size_t(row * c.Ev + e)] += kept * value[v];
        d_value[v] += kept * g[e];
        of_weight[std::size_t(j)] += keep * g[e] * value[v];
      }
      w[j] /= sum;
      delta += w[j] * of_weight[std::size_t(j)];
    }
    for (std::int64_t j = 0; j < last; ++j) {
      const double ds = w[j] * (of_weight[std::size_t(j)] - delta);
      d_bias[std::size_t(row * c.Tk + j)] = ds;
      add_score_gradient(c, ds, row, keys + j);
      w[j] *= c.keep(head, i, j);
    }
  }
  double score(const AttentionCase& c, const double* q, const double* k) const {
    double sum = 0;
    for (std::int64_t e = 0; e < c.E; ++e) {
      sum +=
          c.is_additive ? units[std::size_t(e)] * std::tanh(q[e] + k[e]) : c.kScale * q[e] * k[e];
    }
    return sum;
  }
  void add_score_gradient(const AttentionCase& c, double ds, std::int64_t i, std::int64_t j) {
    for (std::int64_t e = 0; e < c.E; ++e) {
      const auto q = std::size_t(i * c.E + e), k = std::size_t(j * c.E + e), u = std::size_t(e);
      if (!c.is_additive) {
        d_query[q] += c.kScale * ds * key[k], d_key[k] += c.kScale * ds * query[q];
        continue;
      }
      const double t = std::tanh(query[q] + key[k]), through = ds * units[u] * (1 - t * t);
      d_query[q] += through, d_key[k] += through, d_units[u] += ds * t;
    }
  }
};

}  // namespace fastcells
