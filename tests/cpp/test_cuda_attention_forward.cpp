// The CUDA attention kernels forward, under the emulator, against plain loops in double.
#include "cuda_attention_problem.h"

#include "cuda/attention_forward.cuh"
#include "cuda/attention_weights.cuh"

namespace fastcells {
namespace {

template <class T>
struct Outputs {
  explicit Outputs(const AttentionCase& c)
      : output(c.B * c.N * c.Tq * c.Ev),
        logsumexp(c.B * c.N * c.Tq),
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
bool check(const AttentionCase& c, bool repeats = false) {
  std::snprintf(current_check, sizeof current_check, "%s Tq=%d Tk=%d E=%d", storage_name<T>(),
                int(c.Tq), int(c.Tk), int(c.E));
  const AttentionProblem<T> p(c);
  Outputs<T> out(c);
  run<T, kWidth>(p, c.seed, out);
  const Values none(p.weights.size(), 0.0);
  double error = worst<T>("output", out.output, p.output.value, p.output.size);
  error = std::max(error, worst<T>("logsumexp", out.logsumexp, p.logsumexp, none, kEps<float>));
  if (c.has_weights) error = std::max(error, worst<T>("weights", out.weights, p.weights, none));
  bool is_repeated = true;
  if (repeats) {
    Outputs<T> other(c);
    run<T, kWidth>(p, c.seed + 100, other);
    is_repeated = is_same(out.output, other.output, c.B * c.N * c.Tq * c.Ev) &&
                  is_same(out.logsumexp, other.logsumexp, c.B * c.N * c.Tq);
    if (c.has_weights) {
      is_repeated &= is_same(out.weights, other.weights, c.B * c.N * c.Tq * c.Tk);
    }
  }
  return report<T>(c, error, is_repeated);
}

bool check_all() {
  using MaskKind::kAdded, MaskKind::kBool, MaskKind::kNone;
  using B16 = __nv_bfloat16;
  bool ok = true;
  // Whole tiles, and sizes that miss them; rows of whole pieces, and others.
  ok &= check<__half, 64>({.B = 1, .N = 1, .Nk = 1, .Tq = 128, .Tk = 64, .E = 64, .Ev = 64}, true);
  ok &= check<__half, 64>({.B = 1,
                           .N = 2,
                           .Nk = 1,
                           .Tq = 5,
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
  // A window in the middle: keys on both sides that nobody sees.
  ok &= check<__half, 64>({.B = 1,
                           .N = 1,
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
                           .seed = 5});
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
  ok &= check<__half, 128>(
      {.B = 1, .N = 1, .Nk = 1, .Tq = 40, .Tk = 70, .E = 128, .Ev = 72, .right = 0, .seed = 7});
  ok &= check<B16, 256>({.B = 1,
                         .N = 1,
                         .Nk = 1,
                         .Tq = 17,
                         .Tk = 35,
                         .E = 136,
                         .Ev = 256,
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
                          .has_weights = true,
                          .heads_inside = true,
                          .seed = 10});
  ok &= check<float, 128>(
      {.B = 1, .N = 1, .Nk = 1, .Tq = 3, .Tk = 33, .E = 128, .Ev = 100, .softcap = 3, .seed = 11});
  ok &= check<float, 256>({.B = 1,
                           .N = 1,
                           .Nk = 1,
                           .Tq = 3,
                           .Tk = 19,
                           .E = 200,
                           .Ev = 256,
                           .has_weights = true,
                           .seed = 12});
  // Nothing there.
  ok &= check<__half, 64>({.B = 1, .N = 1, .Nk = 1, .Tq = 2, .Tk = 0, .E = 8, .Ev = 8});
  ok &= check<__half, 64>({.B = 0, .N = 1, .Nk = 1, .Tq = 2, .Tk = 2, .E = 8, .Ev = 8});
  ok &= check<__half, 64>({.B = 1, .N = 1, .Nk = 1, .Tq = 2, .Tk = 3, .E = 0, .Ev = 4});
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
