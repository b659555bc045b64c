// The CUDA attention kernels back, under the emulator or on a card, against plain loops in double.
#include "cuda_attention_cases.h"

#include "attention/cuda/dot/backward.cuh"
#include "attention/cuda/dot/mask.cuh"
#include "attention/cuda/dot/weights.cuh"

namespace fastcells {
namespace {

template <class T>
struct Gradients {
  explicit Gradients(const AttentionProblem<T>& p)
      : delta(p.c.B * p.c.N * p.c.Tq),
        query(std::int64_t(p.d_query.value.size())),
        key(std::int64_t(p.d_key.value.size())),
        value(std::int64_t(p.d_value.value.size())),
        mask(std::int64_t(p.d_mask.value.size())) {}
  Guarded<float> delta;
  Guarded<T> query, key, value;
  Guarded<float> mask;
};

template <class Traits, class Kernel, class Args>
void launch(std::int64_t blocks, unsigned seed, std::size_t shared, Kernel kernel,
            const Args& args) {
  if (blocks == 0) return;
  simt::launch({unsigned(blocks)}, {unsigned(Traits::kThreads)}, shared, {seed}, kernel, args);
}
std::int64_t tiles(std::int64_t rows, int of) { return (rows + of - 1) / of; }

template <class T, int kWidth>
void run(const AttentionProblem<T>& p, unsigned seed, Gradients<T>& out) {
  const AttentionCase& c = p.c;
  const AttentionInputs<T> in(p);
  const StoredHeads<T> output(p.output.value, c.N, c.Tq, c.Ev, c.heads_inside);
  const StoredHeads<T> gradient(p.d_output, c.N, c.Tq, c.Ev, c.heads_inside);
  const auto logsumexp = stored<float>(p.logsumexp);
  const auto d_weights = stored<T>(p.d_weights);
  AttentionBackwardArgs args{};
  in.set(p, args);
  args.output = output.view(), args.grad_output = gradient.view();
  args.grad_weights = c.has_weights ? d_weights.data() : nullptr;
  args.logsumexp = logsumexp.data(), args.delta = out.delta.data();
  args.d_query = out.query.data(), args.d_key = out.key.data(), args.d_value = out.value.data();
  args.d_mask = p.is_added() ? out.mask.data() : nullptr;
  simt::launch({2}, {kDeltaWarps * kLanes}, 0, {seed}, attention_delta_kernel<T>, args);
  if (args.grad_weights) {
    AttentionWeightsArgs again{args, args.logsumexp, nullptr, args.grad_weights, args.delta};
    using Traits = AttentionWeightsTraits<T, kWidth>;
    launch<Traits>(c.B * c.N * tiles(c.Tq, Traits::kOwn), seed, attention_weights_shared<Traits>(),
                   attention_weights_kernel<Traits>, again);
  }
  using Query = QueryGradientTraits<T, kWidth>;
  launch<Query>(c.B * c.N * tiles(c.Tq, Query::kOwn), seed, BackwardShared<Query>::kEnd,
                attention_query_gradient_kernel<Query>, args);
  using Key = KeyGradientTraits<T, kWidth>;
  launch<Key>(c.B * c.Nk * tiles(c.Tk, Key::kOwn), seed, BackwardShared<Key>::kEnd,
              attention_key_gradient_kernel<Key>, args);
  if (!args.d_mask) return;
  using Mask = MaskGradientTraits<T, kWidth>;
  launch<Mask>(MaskTiles::of(args, Mask::kOwn, Mask::kOthers).kept(args.mask).count(), seed,
               BackwardShared<Mask>::kEnd, attention_mask_gradient_kernel<Mask>, args);
}

template <class T, int kWidth>
bool check_problem(const AttentionCase& c, bool repeats) {
  const AttentionProblem<T> p(c);
  Gradients<T> out(p);
  run<T, kWidth>(p, c.seed, out);
  double error = worst<T>("d_query", out.query, p.d_query.value, p.d_query.size);
  error = std::max(error, worst<T>("d_key", out.key, p.d_key.value, p.d_key.size));
  error = std::max(error, worst<T>("d_value", out.value, p.d_value.value, p.d_value.size));
  if (p.is_added()) {
    error = std::max(error, worst<T>("d_mask", out.mask, p.d_mask.value, p.d_mask.size));
  }
  bool is_repeated = true;
  if (repeats) {
    Gradients<T> other(p);
    run<T, kWidth>(p, c.seed + 100, other);
    const auto count = [](const Sums& sums) { return std::int64_t(sums.value.size()); };
    is_repeated = is_same(out.query, other.query, count(p.d_query)) &&
                  is_same(out.key, other.key, count(p.d_key)) &&
                  is_same(out.value, other.value, count(p.d_value)) &&
                  is_same(out.mask, other.mask, count(p.d_mask));
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

// Every set of dimensions along which a mask may be broadcast.
bool check_masks() {
  bool ok = true;
  for (unsigned kept = 0; kept < 16; ++kept) {
    AttentionCase c = sized(2, 2, 1, kept % 5 == 0 ? 67 : 3, 35, 8, 8, kept);
    c.mask = MaskKind::kAdded;
    c.mask_batch = (kept & 1) != 0, c.mask_head = (kept & 2) != 0;
    c.mask_query = (kept & 4) != 0, c.mask_key = (kept & 8) != 0;
    if (kept == 15) c.right = 20;
    ok &= check<__half, 64>(c, false);
  }
  return ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  watch_guards();
  return fastcells::run_checks(fastcells::Check(),
                               fastcells::is_short() || fastcells::check_masks());
}
