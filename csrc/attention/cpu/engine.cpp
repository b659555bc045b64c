#include "attention/cpu/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <functional>

#include "attention/cpu/kernels/args.h"
#include "checks.h"
#include "cpu/instruction_set.h"
#include "cpu/memory.h"
#include "cpu/team.h"

namespace fastcells::cpu {
namespace {

// Multiplications below which a second thread costs more than it brings.
constexpr int64_t kWorkPerThread = 1 << 18;
constexpr int64_t kMostKeyChunks = 8;

FindAttention& attention_table() {
  if (instruction_set() >= InstructionSet::kAvx512) return avx512_attention;
  return instruction_set() >= InstructionSet::kAvx2 ? avx2_attention : baseline_attention;
}

const AttentionKernels& kernels_of(const AttentionProblem& p) {
  const Storage storage = storage_of(p.op, p.query.scalar_type());
  return *attention_table()(p.is_additive() ? Score::kAdditive : Score::kDot, storage);
}

int threads_for(const AttentionProblem& p, int64_t tasks) {
  const auto& s = p.sizes;
  const int64_t work = s.B * s.N * s.Tq * s.Tk * (s.E + s.Ev);
  const int64_t worth = std::max<int64_t>(1, work / kWorkPerThread);
  return int(std::max<int64_t>(1, std::min({int64_t(available_threads()), tasks, worth})));
}

thread_local Workspace attention_workspace;

// Scratch of its own for each thread, on pages of its own.
class TeamScratch {
 public:
  TeamScratch(int threads, std::size_t bytes)
      : stride_((bytes + kPage - 1) / kPage * kPage),
        memory_(attention_workspace.at_least(threads * stride_)) {}
  ~TeamScratch() { attention_workspace.trim(); }
  TeamScratch(const TeamScratch&) = delete;
  void* of(int thread) const { return memory_ + thread * stride_; }

 private:
  static constexpr std::size_t kPage = 4096;
  std::size_t stride_;
  char* memory_;
};

// Tasks as threads become free: which thread runs one changes nothing in what it writes.
void run_tasks(int threads, int64_t tasks, const std::function<void(int, int64_t)>& body) {
  std::atomic<int64_t> next{0};
  run_team(threads, [&](int thread) {
    for (int64_t task = next++; task < tasks; task = next++) body(thread, task);
  });
}
// Each thread a run of tasks, where threads sum up on their own.
void run_shares(int threads, int64_t tasks, const std::function<void(int, int64_t)>& body) {
  run_team(threads, [&](int thread) {
    const int64_t last = tasks * (thread + 1) / threads;
    for (int64_t task = tasks * thread / threads; task < last; ++task) body(thread, task);
  });
}

// Into how many ranges the keys of a head are cut, so that the threads share the tasks evenly: the
// fewest, as each range brings a part of the query's gradient to be summed up.
int64_t key_chunks(const AttentionProblem& p, int64_t key_block) {
  const auto& s = p.sizes;
  const int64_t heads = s.B * s.Nk, threads = available_threads();
  const int64_t most = std::clamp<int64_t>((s.Tk + key_block - 1) / key_block, 1, kMostKeyChunks);
  for (int64_t chunks = 1; chunks <= most; ++chunks) {
    const int64_t tasks = heads * chunks, rounds = (tasks + threads - 1) / threads;
    if (5 * tasks >= 4 * rounds * threads) return chunks;
  }
  return most;
}

AttentionOutputs forward(const AttentionProblem& p, bool wants_weights) {
  const SerialInForkedChild guard;
  const auto& s = p.sizes;
  const auto options = p.query.options();
  AttentionOutputs out;
  out.output = at::empty({s.B, s.N, s.Tq, s.Ev}, options);
  out.logsumexp = at::empty({s.B, s.N, s.Tq, 2}, options.dtype(p.arithmetic()));
  if (wants_weights) out.weights = at::empty({s.B, s.N, s.Tq, s.Tk}, options);
  AttentionForwardArgs a{};
  set_arguments(p, a);
  a.output = out.output.mutable_data_ptr(), a.logsumexp = out.logsumexp.mutable_data_ptr();
  a.weights = wants_weights ? out.weights.mutable_data_ptr() : nullptr;
  const AttentionKernels& kernels = kernels_of(p);
  const int64_t tasks = kernels.forward_tasks(a);
  if (tasks == 0) return out;
  constexpr double kSecondsPerProduct = 5e-11;
  const double products = double(s.B * s.N * s.Tq * s.Tk * (s.E + s.Ev));
  const int threads = threads_now(threads_for(p, tasks), products * kSecondsPerProduct);
  const TeamScratch scratch(threads, kernels.forward_scratch(a));
  run_tasks(threads, tasks,
            [&](int thread, int64_t task) { kernels.forward(a, task, scratch.of(thread)); });
  return out;
}

// The gradient of a mask: one buffer where every task has a place of its own in it, else one for
// each thread.
at::Tensor mask_parts(const AttentionProblem& p, int64_t chunks, int threads) {
  const auto& s = p.sizes;
  const bool is_own =
      p.mask.size(0) == s.B && p.mask.size(1) == s.N && (chunks == 1 || p.mask.size(3) == s.Tk);
  std::vector<int64_t> shape = p.mask.sizes().vec();
  shape.insert(shape.begin(), is_own ? 1 : threads);
  return at::zeros(shape, p.mask.options().dtype(p.arithmetic()));
}

at::Tensor sum_parts(const at::Tensor& parts, at::ScalarType dtype) {
  const at::Tensor sum = parts.size(0) == 1 ? parts.squeeze(0) : parts.sum(0);
  return sum.to(dtype);
}

AttentionInputGradients backward(const AttentionProblem& p, const AttentionGradients& given,
                                 bool wants_mask) {
  const SerialInForkedChild guard;
  const auto& s = p.sizes;
  const auto options = p.query.options(), arithmetic = options.dtype(p.arithmetic());
  const AttentionKernels& kernels = kernels_of(p);
  AttentionBackwardArgs a{};
  set_arguments(p, a);
  a.key_chunks = key_chunks(p, kernels.key_block);
  const int64_t tasks = kernels.backward_tasks(a);
  AttentionInputGradients grads;
  grads.key = at::empty({s.B, s.Nk, s.Tk, s.E}, options);
  grads.value = at::empty({s.B, s.Nk, s.Tk, s.Ev}, options);
  const at::Tensor query_parts = at::empty({a.key_chunks, s.B, s.N, s.Tq, s.E}, arithmetic);
  const at::Tensor unit_parts =
      p.is_additive() ? at::empty({tasks, s.E}, arithmetic) : at::Tensor();
  const int threads = threads_for(p, tasks);
  const at::Tensor parts = wants_mask ? mask_parts(p, a.key_chunks, threads) : at::Tensor();
  a.grad_output = head_matrix(given.grad_output), a.output = head_matrix(given.output);
  a.grad_weights = given.grad_weights.defined() ? given.grad_weights.const_data_ptr() : nullptr;
  a.logsumexp = given.logsumexp.const_data_ptr();
  a.d_query = query_parts.mutable_data_ptr();
  a.d_key = grads.key.mutable_data_ptr(), a.d_value = grads.value.mutable_data_ptr();
  a.d_units = p.is_additive() ? unit_parts.mutable_data_ptr() : nullptr;
  if (tasks > 0) {
    const TeamScratch scratch(threads, kernels.backward_scratch(a));
    const bool is_shared = wants_mask && parts.size(0) > 1;
    (is_shared ? run_shares : run_tasks)(threads, tasks, [&](int thread, int64_t task) {
      AttentionBackwardArgs own = a;
      if (wants_mask) own.d_mask = parts[is_shared ? thread : 0].mutable_data_ptr();
      kernels.backward(own, task, scratch.of(thread));
    });
  }
  const auto dtype = p.query.scalar_type();
  grads.query = sum_parts(query_parts, dtype);
  if (p.is_additive()) grads.units = unit_parts.sum(0).to(dtype);
  if (wants_mask) grads.mask = sum_parts(parts, p.mask_dtype);
  return grads;
}

class CpuAttention final : public AttentionEngine {
 public:
  AttentionOutputs forward(const AttentionProblem& problem, bool wants_weights) const override {
    return cpu::forward(problem, wants_weights);
  }
  AttentionInputGradients backward(const AttentionProblem& problem, const AttentionGradients& given,
                                   bool wants_mask) const override {
    return cpu::backward(problem, given, wants_mask);
  }
};

}  // namespace

const AttentionEngine& attention_engine() {
  static const CpuAttention engine;
  return engine;
}

}  // namespace fastcells::cpu
