// The team of threads and the CPU engines on it, for ThreadSanitizer: several threads call layers
// and attention at once, on weights that they share and that one of them changes in between, each
// with a team of its own. What a call computes must be the same bits every time.
//
// One source of what needs torch, so that its headers are read once; the kernels are the
// baseline's, in the place of every instruction set. tests/project/sanitize.py builds it.
#include "attention/cpu/engine.cpp"
#include "attention/problem.cpp"
#include "checks.cpp"
#include "cpu/instruction_set.cpp"
#include "cpu/memory.cpp"
#include "cpu/team.cpp"
#include "dense.cpp"
#include "recurrent/compiled/registry.cpp"
#include "recurrent/cpu/packs.cpp"
#include "recurrent/cpu/plan.cpp"
#include "recurrent/cpu/sequence.cpp"
#include "recurrent/cpu/sequence_backward.cpp"
#include "recurrent/cpu/sequence_forward.cpp"
#include "recurrent/cpu/single_step.cpp"
#include "recurrent/cpu/table.cpp"
#include "recurrent/engine.cpp"
#include "recurrent/layer.cpp"
#include "recurrent/rowwise/engine.cpp"

#include <ATen/ATen.h>

#include <cstdio>
#include <thread>

namespace fastcells::cpu {

const CellTable& avx2_kernels() { return baseline_kernels(); }
const CellTable& avx512_kernels() { return baseline_kernels(); }
#define FC_BASELINE(set)                                                              \
  const CellKernels* set##_narrow(int cell, Storage storage, WeightStorage weights) { \
    return baseline_narrow(cell, storage, weights);                                   \
  }
FC_BASELINE(avx2)
FC_BASELINE(avx2_vnni)
FC_BASELINE(avx512)
FC_BASELINE(avx512_vnni)
FC_BASELINE(avx512_bf16)
FC_BASELINE(amx)
#undef FC_BASELINE
const AttentionKernels* avx2_attention(Score score, Storage storage) {
  return baseline_attention(score, storage);
}
const AttentionKernels* avx512_attention(Score score, Storage storage) {
  return baseline_attention(score, storage);
}

namespace {

using Tensors = std::vector<at::Tensor>;

struct LayerCase {
  const char* cell;
  int64_t T, B, I, H, D;
  bool has_lengths, is_rowwise = false;
};

constexpr const char* kNames = "weight_ih weight_hh bias_ih bias_hh";
constexpr const char* kRowwiseNames =
    "weight_ih weight_hh bias_ih bias_hh norm_ih norm_hh norm_c norm_c_bias noise";

// Weights of a direction.
Tensors draw_weights(const LayerCase& c) {
  const int64_t gates = find_cell(c.cell).gates * c.H;
  Tensors weights{at::randn({gates, c.I}) / 4, at::randn({gates, c.H}) / 16, at::randn({gates}),
                  at::randn({gates})};
  if (c.is_rowwise) {
    const Tensors norms{at::ones({gates}), at::ones({gates}), at::ones({c.H}), at::randn({c.H})};
    weights.insert(weights.end(), norms.begin(), norms.end());
    weights.push_back(at::tensor({5., 0.2, 0.3, 0.4, 1.}, at::kDouble));  // rowwise/noise.h
  }
  return weights;
}

// Output, final state and gradients of a layer whose grid has several threads.
Tensors run_layer(const LayerCase& c, const Tensors& weights, const at::Tensor& input) {
  const at::Tensor lengths =
      c.has_lengths ? at::arange(c.B, at::kLong).mul_(3).remainder(c.T + 1) : at::Tensor();
  const OptionalTensor given = lengths.defined() ? OptionalTensor(lengths) : std::nullopt;
  const Layer layer = check_layer(
      "test", {c.cell, c.D, input, std::nullopt, std::nullopt, weights,
               split_names(c.is_rowwise ? kRowwiseNames : kNames), given, std::nullopt});
  PerWeight<bool> all{true, true, true, true, false};
  all.norm_ih = all.norm_hh = all.norm_c = all.norm_c_bias = c.is_rowwise;
  const LayerNeeds needs{true, false, false, std::vector<PerWeight<bool>>(c.D, all)};
  LayerOutputs out;
  InputGradients grads;
  const auto given_back = [&] { return LayerGradients{at::ones_like(out.output), {}, {}, {}}; };
  if (c.is_rowwise) {
    out = rowwise::engine().forward(layer, Keep::kEverything);
    grads = rowwise::engine().backward(layer, out, given_back(), needs);
  } else {
    std::string why;
    const CellKernels* kernels =
        find_kernels(layer.cell, layer.storage, WeightStorage::kAsTensors, layer.sizes, false, why);
    out = sequence_forward(layer, Keep::kEverything, *kernels);
    grads = sequence_backward(layer, out, given_back(), needs, *kernels);
  }
  Tensors results{out.output, out.h_n, grads.input};
  for (DirectionWeights& d : grads.weights) {
    for_each_weight(d, [&](const char*, const at::Tensor& grad) {
      if (grad.defined()) results.push_back(grad);
    });
  }
  return results;
}

Tensors run_attention(const at::Tensor& query, const at::Tensor& key) {
  const AttentionProblem p = check_attention("test", query, key, key, std::nullopt, std::nullopt,
                                             std::nullopt, 0.3, 0, {-1, 0, 0}, 0);
  const AttentionEngine& engine = attention_engine();
  const AttentionOutputs out = engine.forward(p, true);
  const AttentionGradients given = check_attention_gradients(
      p, at::ones_like(out.output), std::nullopt, out.output, out.logsumexp);
  const AttentionInputGradients grads = engine.backward(p, given, false);
  return {out.output, out.weights, grads.query, grads.key, grads.value};
}

bool same_bits(const Tensors& a, const Tensors& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) {
    same = a[i].sizes() == b[i].sizes() && a[i].is_contiguous() && b[i].is_contiguous() &&
           std::memcmp(a[i].data_ptr(), b[i].data_ptr(), a[i].nbytes()) == 0;
  }
  return same;
}

// Three threads at once, each several times.
template <class Run>
bool check_at_once(const char* what, const Run& run) {
  const Tensors expected = run();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      const c10::InferenceMode mode;
      for (int n = 0; n < 3; ++n) wrong += !same_bits(run(), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("%-40s %s\n", what, wrong == 0 ? "ok" : "FAILED");
  return wrong == 0;
}

bool check_layers() {
  bool ok = true;
  for (const LayerCase& c :
       {LayerCase{"lstm", 6, 2, 9, 140, 1, false}, LayerCase{"gru", 5, 40, 20, 24, 1, true},
        LayerCase{"rnn_tanh", 5, 33, 8, 64, 2, true},
        // Two threads share the units, then the rows.
        LayerCase{"lstm", 4, 1, 9, 200, 1, false, true},
        LayerCase{"lstm", 5, 33, 8, 24, 1, true, true}}) {
    Tensors weights;
    for (int64_t d = 0; d < c.D; ++d) {
      const Tensors drawn = draw_weights(c);
      weights.insert(weights.end(), drawn.begin(), drawn.end());
    }
    const at::Tensor input = at::randn({c.T, c.B, c.I});
    ok &= check_at_once(c.is_rowwise ? "lstm, row-wise" : c.cell,
                        [&] { return run_layer(c, weights, input); });
    weights[1].mul_(0.5);  // the pack is another's now
    ok &=
        check_at_once("the same with other weights", [&] { return run_layer(c, weights, input); });
  }
  return ok;
}

}  // namespace
}  // namespace fastcells::cpu

int main() {
  const c10::InferenceMode mode;
  at::manual_seed(1);
  at::set_num_threads(2);
  bool ok = fastcells::cpu::check_layers();
  const at::Tensor query = at::randn({2, 4, 70, 16}), key = at::randn({2, 4, 150, 16});
  ok &= fastcells::cpu::check_at_once("attention",
                                      [&] { return fastcells::cpu::run_attention(query, key); });
  return ok ? 0 : 1;
}
