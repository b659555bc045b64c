// The CPU's attention kernels of the instruction set that the including file chose, forward and
// backward, against plain loops in double: tiles and few queries, every mask that a kernel knows
// by itself, lengths, dropout, both kinds of score. Scratch is poisoned, and so is what is written.
#pragma once
#include <cstdio>

#include "attention/cpu/kernels/table.h"
#include "attention_problem.h"

namespace fastcells {

template <class S>
class AttentionRun {
 public:
  explicit AttentionRun(const AttentionCase& c) : c_(c), want_(c) { want_.compute(c); }

  // The largest error of any result, relative to numbers of size one and above.
  double error() {
    run();
    double worst = 0;
    const auto compare = [&](const std::vector<S>& got, const Values& want, double terms = 1) {
      for (std::size_t i = 0; i < want.size(); ++i) {
        if (std::isinf(want[i]) && double(got[i]) == want[i]) continue;
        const double e = std::fabs(double(got[i]) - want[i]) / (terms + std::fabs(want[i]));
        if (!(e <= worst)) worst = e;  // NaN, too
      }
    };
    compare(output_, want_.output), compare(logsumexp_, want_.logsumexp);
    compare(weights_, want_.weights), compare(d_query_, want_.d_query);
    compare(d_key_, want_.d_key), compare(d_value_, want_.d_value);
    compare(d_bias_, want_.d_bias);
    if (c_.is_additive) {  // the rounding of a row's logsumexp is common to all its terms
      double terms = 1;
      for (const double d : want_.d_bias) terms += std::fabs(d);
      compare(d_units_, want_.d_units, terms);
    }
    return worst;
  }

 private:
  static std::vector<S> stored(const Values& x) { return std::vector<S>(x.begin(), x.end()); }
  static std::vector<S> unwritten(const Values& like) {
    return std::vector<S>(like.size(), S(NAN));
  }
  static HeadMatrix matrix(const std::vector<S>& x, std::int64_t heads, std::int64_t rows,
                           std::int64_t width) {
    return {x.data(), heads * rows * width, rows * width, width};
  }

  void set_arguments(AttentionArgs& a) {
    a.B = c_.B, a.N = c_.N, a.Nk = c_.Nk, a.Tq = c_.Tq, a.Tk = c_.Tk, a.E = c_.E, a.Ev = c_.Ev;
    a.query = matrix(query_, c_.N, c_.Tq, c_.E), a.key = matrix(key_, c_.Nk, c_.Tk, c_.E);
    a.value = matrix(value_, c_.Nk, c_.Tk, c_.Ev);
    a.mask = {
        AttentionMask::Kind::kAdded, bias_.data(), c_.N * c_.Tq * c_.Tk, c_.Tq * c_.Tk, c_.Tk, 1};
    for (std::int64_t b = 0; b < c_.B; ++b) lengths_.push_back(c_.length(b));
    a.key_lengths = lengths_.data();
    a.scale = AttentionCase::kScale, a.left = -1, a.right = c_.is_causal ? 0 : -1;
    a.dropout = {&seed_, dropout_threshold(c_.dropout_p), 1 / (1 - c_.dropout_p), c_.dropout_p > 0};
    a.units = c_.is_additive ? units_.data() : nullptr;
  }

  void run() {
    AttentionForwardArgs forward{};
    cpu::AttentionBackwardArgs backward{};
    set_arguments(forward);
    static_cast<AttentionArgs&>(backward) = forward;
    forward.output = output_.data(), forward.logsumexp = logsumexp_.data();
    forward.weights = weights_.data();
    backward.grad_output = matrix(grad_output_, c_.N, c_.Tq, c_.Ev);
    backward.output = matrix(output_, c_.N, c_.Tq, c_.Ev);
    backward.logsumexp = logsumexp_.data(), backward.key_chunks = 2;
    // Not from the table, of which 16 bits would be compiled, too.
    const auto* const kernels = c_.is_additive ? &AttentionPasses<S, S, true>::kKernels
                                               : &AttentionPasses<S, S, false>::kKernels;
    const std::int64_t tasks = kernels->backward_tasks(backward);
    std::vector<S> queries(2 * query_.size(), S(NAN)), units(std::size_t(tasks * c_.E), S(NAN));
    backward.d_query = queries.data(), backward.d_key = d_key_.data();
    backward.d_value = d_value_.data(), backward.d_mask = d_bias_.data();
    backward.d_units = c_.is_additive ? units.data() : nullptr;
    std::vector<S> scratch(
        std::max(kernels->forward_scratch(forward), kernels->backward_scratch(backward)) /
                sizeof(S) +
            32,
        S(NAN));
    auto* const aligned =
        reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) / 64 * 64);
    for (std::int64_t t = 0; t < kernels->forward_tasks(forward); ++t) {
      kernels->forward(forward, t, aligned);
    }
    for (std::int64_t t = 0; t < tasks; ++t) kernels->backward(backward, t, aligned);
    add_parts(queries, d_query_), add_parts(units, d_units_);
  }
  static void add_parts(const std::vector<S>& parts, std::vector<S>& sum) {
    for (std::size_t i = 0; i < parts.size() && !sum.empty(); ++i) sum[i % sum.size()] += parts[i];
  }

  const AttentionCase c_;
  AttentionTensors want_;
  std::vector<std::int64_t> lengths_;
  const std::int64_t seed_ = std::int64_t(AttentionCase::kSeed);
  const std::vector<S> query_ = stored(want_.query), key_ = stored(want_.key),
                       value_ = stored(want_.value), units_ = stored(want_.units),
                       bias_ = stored(want_.bias), grad_output_ = stored(want_.grad_output);
  std::vector<S> output_ = unwritten(want_.output), logsumexp_ = unwritten(want_.logsumexp),
                 weights_ = unwritten(want_.weights), d_key_ = unwritten(want_.d_key),
                 d_value_ = unwritten(want_.d_value);
  std::vector<S> d_query_ = std::vector<S>(want_.d_query.size()),  // summed up here
      d_units_ = std::vector<S>(want_.d_units.size()),
                 d_bias_ = std::vector<S>(want_.d_bias.size());  // added to
};

// Errors relative to numbers of size one (of the units: to the sum of the terms' sizes): sums over
// up to 210 terms, each with a rounding of 2^-24, as its factors have.
constexpr double kFloatBound = 2e-5, kDoubleBound = 1e-12;

inline int check_attention_kernels() {
  int failures = 0, cases = 0;
  double worst_float = 0, worst_double = 0;
  const auto check = [&](const AttentionCase& c) {
    const double of_float = AttentionRun<float>(c).error(),
                 of_double = AttentionRun<double>(c).error();
    worst_float = std::fmax(worst_float, of_float),
    worst_double = std::fmax(worst_double, of_double);
    ++cases;
    if (of_float <= kFloatBound && of_double <= kDoubleBound) return;
    ++failures;
    std::printf("%s B=%d N=%d Tq=%d Tk=%d E=%d causal=%d lengths=%d dropout=%g large=%d: %g %g\n",
                c.is_additive ? "additive" : "dot", int(c.B), int(c.N), int(c.Tq), int(c.Tk),
                int(c.E), c.is_causal, c.has_lengths, c.dropout_p, c.is_large, of_float, of_double);
  };
  struct Sizes {
    std::int64_t B, N, Nk, Tq, Tk, E, Ev;
  };
  for (const Sizes& s : {Sizes{2, 4, 2, 37, 101, 20, 13}, Sizes{1, 1, 1, 70, 210, 64, 64},
                         Sizes{1, 2, 1, 1, 9, 3, 1}, Sizes{2, 2, 1, 3, 101, 70, 66},
                         Sizes{2, 2, 2, 130, 5, 33, 40}}) {
    for (const bool has_lengths : {false, true}) {
      for (const double p : {0.0, 0.25}) {
        check({false, s.B, s.N, s.Nk, s.Tq, s.Tk, s.E, s.Ev, false, has_lengths, p, false});
        check({false, s.B, s.N, s.Nk, s.Tq, s.Tk, s.E, s.Ev, true, has_lengths, p, false});
        check({true, s.B, 1, 1, s.Tq, s.Tk, s.E, s.Ev, false, has_lengths, p, false});
        check({true, s.B, 1, 1, s.Tq, s.Tk, s.E, s.Ev, false, has_lengths, p, true});
      }
    }
  }
  std::printf("%d cases, worst error %.1e in float, %.1e in double\n", cases, worst_float,
              worst_double);
  return failures;
}

}  // namespace fastcells
