// The CUDA attention kernels back, under the emulator, against plain loops in double.
#include "cuda_attention_problem.h"

#include "cuda/attention_backward.cuh"
#include "cuda/attention_mask.cuh"
#include "cuda/attention_weights.cuh"

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
  args.d_mask = c.mask == MaskKind::kAdded ? out.mask.data() : nullptr;
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
bool check(const AttentionCase& c, bool repeats = false) {
  std::snprintf(current_check, sizeof current_check, "%s Tq=%d Tk=%d E=%d", storage_name<T>(),
                int(c.Tq), int(c.Tk), int(c.E));
  const AttentionProblem<T> p(c);
  Gradients<T> out(p);
  run<T, kWidth>(p, c.seed, out);
  double error = worst<T>("d_query", out.query, p.d_query.value, p.d_query.size);
  error = std::max(error, worst<T>("d_key", out.key, p.d_key.value, p.d_key.size));
  error = std::max(error, worst<T>("d_value", out.value, p.d_value.value, p.d_value.size));
  if (c.mask == MaskKind::kAdded) {
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
  return report<T>(c, error, is_repeated);
}

// Every dimension along which a mask may be broadcast, in small.
bool check_masks() {
  bool ok = true;
  for (unsigned kept = 0; kept < 16; ++kept) {
    ok &= check<__half, 64>({.B = 2,
                             .N = 2,
                             .Nk = 1,
                             .Tq = kept % 5 == 0 ? 67 : 3,
                             .Tk = 35,
                             .E = 8,
                             .Ev = 8,
                             .mask = MaskKind::kAdded,
                             .mask_batch = (kept & 1) != 0,
                             .mask_head = (kept & 2) != 0,
                             .mask_query = (kept & 4) != 0,
                             .mask_key = (kept & 8) != 0,
                             .right = kept == 15 ? 20 : -1,
                             .seed = kept});
  }
  return ok;
}

bool check_all() {
  using MaskKind::kAdded, MaskKind::kBool, MaskKind::kNone;
  using B16 = __nv_bfloat16;
  bool ok = check_masks();
  // Whole tiles, and sizes that miss them; rows of whole pieces, and others.
  ok &= check<__half, 64>({.B = 1, .N = 1, .Nk = 1, .Tq = 64, .Tk = 64, .E = 64, .Ev = 64}, true);
  ok &= check<__half, 64>({.B = 1,
                           .N = 4,
                           .Nk = 2,
                           .Tq = 35,
                           .Tk = 37,
                           .E = 20,
                           .Ev = 9,
                           .has_weights = true,
                           .heads_inside = true,
                           .seed = 2});
  ok &= check<B16, 64>({.B = 2,
                        .N = 2,
                        .Nk = 2,
                        .Tq = 9,
                        .Tk = 41,
                        .E = 32,
                        .Ev = 48,
                        .mask = kBool,
                        .mask_head = false,
                        .has_lengths = true,
                        .right = 0,
                        .offset = 30,
                        .softcap = 1.5,
                        .has_weights = true,
                        .seed = 3});
  // A window in the middle: keys on both sides that nobody sees, queries that see no key.
  ok &= check<__half, 64>({.B = 1,
                           .N = 2,
                           .Nk = 1,
                           .Tq = 20,
                           .Tk = 120,
                           .E = 16,
                           .Ev = 16,
                           .left = 3,
                           .right = 5,
                           .offset = 50,
                           .dropout = 0.4,
                           .has_weights = true,
                           .heads_inside = true,
                           .seed = 4},
                          true);
  ok &= check<B16, 64>({.B = 1,
                        .N = 1,
                        .Nk = 1,
                        .Tq = 90,
                        .Tk = 40,
                        .E = 16,
                        .Ev = 16,
                        .left = 4,
                        .right = 0,
                        .offset = -25,
                        .dropout = 0.2,
                        .seed = 14});
  ok &= check<__half, 64>({.B = 3,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 3,
                           .Tk = 7,
                           .E = 8,
                           .Ev = 8,
                           .mask = kAdded,
                           .mask_query = false,
                           .has_lengths = true,
                           .left = 4,
                           .right = 0,
                           .offset = 2,
                           .dropout = 0.3,
                           .has_weights = true,
                           .seed = 5},
                          true);
  ok &= check<B16, 64>({.B = 1,
                        .N = 2,
                        .Nk = 1,
                        .Tq = 2,
                        .Tk = 33,
                        .E = 64,
                        .Ev = 3,
                        .mask = kAdded,
                        .mask_batch = false,
                        .mask_key = false,
                        .softcap = 2,
                        .seed = 6,
                        .scale = -0.3});
  ok &= check<__half, 128>({.B = 1,
                            .N = 1,
                            .Nk = 1,
                            .Tq = 40,
                            .Tk = 33,
                            .E = 128,
                            .Ev = 72,
                            .mask = kAdded,
                            .right = 0,
                            .seed = 7});
  ok &= check<B16, 256>({.B = 1,
                         .N = 1,
                         .Nk = 1,
                         .Tq = 17,
                         .Tk = 35,
                         .E = 136,
                         .Ev = 256,
                         .mask = kAdded,
                         .dropout = 0.2,
                         .has_weights = true,
                         .seed = 8});
  ok &= check<float, 64>({.B = 1,
                          .N = 2,
                          .Nk = 1,
                          .Tq = 18,
                          .Tk = 43,
                          .E = 64,
                          .Ev = 52,
                          .mask = kBool,
                          .mask_batch = false,
                          .right = 1,
                          .offset = 20,
                          .dropout = 0.5,
                          .has_weights = true,
                          .seed = 9});
  ok &= check<float, 64>({.B = 1,
                          .N = 1,
                          .Nk = 1,
                          .Tq = 4,
                          .Tk = 9,
                          .E = 7,
                          .Ev = 64,
                          .mask = kAdded,
                          .softcap = 3,
                          .has_weights = true,
                          .heads_inside = true,
                          .seed = 10});
  ok &= check<float, 128>({.B = 1,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 3,
                           .Tk = 33,
                           .E = 128,
                           .Ev = 100,
                           .mask = kAdded,
                           .seed = 11});
  ok &= check<float, 256>({.B = 1,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 3,
                           .Tk = 19,
                           .E = 200,
                           .Ev = 256,
                           .mask = kAdded,
                           .has_weights = true,
                           .seed = 12});
  // Nothing there.
  ok &= check<__half, 64>({.B = 1, .N = 1, .Nk = 1, .Tq = 2, .Tk = 0, .E = 8, .Ev = 8});
  ok &= check<__half, 64>({.B = 1,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 0,
                           .Tk = 2,
                           .E = 8,
                           .Ev = 8,
                           .mask = kAdded,
                           .mask_query = false});
  ok &= check<__half, 64>({.B = 0,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 2,
                           .Tk = 2,
                           .E = 8,
                           .Ev = 8,
                           .mask = kAdded,
                           .mask_batch = false});
  return ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  watch_guards();
  try {
    return fastcells::check_all() ? 0 : 1;
  } catch (const simt::Fault& fault) {
    std::printf("FAILED: %s: %s\n", current_check, fault.what());
    return 1;
  }
}
