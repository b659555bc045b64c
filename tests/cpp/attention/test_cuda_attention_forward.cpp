// The CUDA attention kernels forward, under the emulator or on a card, against plain loops in
// double.
#include "cuda_attention_cases.h"

#include "attention/cuda/dot/forward.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells {
namespace {

template <class T>
struct Outputs {
  explicit Outputs(const AttentionCase& c)
      : output(c.B * c.N * c.Tq * c.Ev),
        logsumexp(c.B * c.N * c.Tq * 2),
        weights(c.has_weights ? c.B * c.N * c.Tq * c.Tk : 0) {}
  Guarded<T> output;
  Guarded<float> logsumexp;
  Guarded<T> weights;
};

template <class Traits, class Kernel, class Args>
void launch(const AttentionCase& c, unsigned seed, std::size_t shared, Kernel kernel,
            const Args& args) {
  const std::int64_t blocks = c.B * c.N * ((c.Tq + Traits::kOwn - 1) / Traits::kOwn);
  if (blocks == 0) return;
  simt::launch({unsigned(blocks)}, {unsigned(Traits::kThreads)}, shared, {seed}, kernel, args);
}

template <class T, int kWidth>
void run(const AttentionProblem<T>& p, unsigned seed, Outputs<T>& out) {
  const AttentionInputs<T> in(p);
  AttentionForwardArgs args{};
  in.set(p, args);
  args.output = out.output.data(), args.logsumexp = out.logsumexp.data();
  args.weights = p.c.has_weights ? out.weights.data() : nullptr;
  using Traits = AttentionForwardTraits<T, kWidth>;
  launch<Traits>(p.c, seed, attention_forward_shared<Traits>(), attention_forward_kernel<Traits>,
                 args);
  if (!p.c.has_weights) return;
  AttentionWeightsArgs again{args, args.logsumexp, args.weights, nullptr, nullptr};
  using Again = AttentionWeightsTraits<T, kWidth>;
  launch<Again>(p.c, seed, attention_weights_shared<Again>(), attention_weights_kernel<Again>,
                again);
}

template <class T, int kWidth>
bool check_problem(const AttentionCase& c, bool repeats) {
  const AttentionProblem<T> p(c);
  Outputs<T> out(c);
  run<T, kWidth>(p, c.seed, out);
  const Values none(std::max(p.weights.size(), p.logsumexp.size()), 0.0);
  double error = worst<T>("output", out.output, p.output.value, p.output.size);
  error = std::max(error, worst<T>("logsumexp", out.logsumexp, p.logsumexp, none, kEps<float>));
  if (c.has_weights) error = std::max(error, worst<T>("weights", out.weights, p.weights, none));
  bool is_repeated = true;
  if (repeats) {
    Outputs<T> other(c);
    run<T, kWidth>(p, c.seed + 100, other);
    is_repeated = is_same(out.output, other.output, c.B * c.N * c.Tq * c.Ev) &&
                  is_same(out.logsumexp, other.logsumexp, c.B * c.N * c.Tq * 2);
    if (c.has_weights) {
      is_repeated &= is_same(out.weights, other.weights, c.B * c.N * c.Tq * c.Tk);
    }
  }
  return end_case(error, 1, is_repeated);  // in units of its bound
}
template <class T, int kWidth>
bool check(const AttentionCase& c, bool repeats) {
  return run_case(case_name<T>(c), [&] { return check_problem<T, kWidth>(c, repeats); });
}

struct Check {
  template <class T, int kWidth>
  bool operator()(const AttentionCase& c, bool repeats) const {
    return check<T, kWidth>(c, repeats);
  }
};

}  // namespace
}  // namespace fastcells

int main() {
  watch_guards();
  return fastcells::run_checks(fastcells::Check(), true);
}
