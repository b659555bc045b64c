#include "scan/cpu/engine.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>

#include "cpu/instruction_set.h"
#include "cpu/memory.h"
#include "cpu/team.h"
#include "scan/cpu/layout.h"
#include "scan/cpu/plan.h"

namespace fastcells::cpu {
namespace {

FindScan& scan_table() {
  if (instruction_set() >= InstructionSet::kAvx512) return avx512_scan;
  return instruction_set() >= InstructionSet::kAvx2 ? avx2_scan : baseline_scan;
}

thread_local Workspace scan_workspace;

// Tasks as threads become free: which thread runs one changes nothing in what it writes.
void run_tasks(int threads, int64_t tasks, const std::function<void(int, int64_t)>& body) {
  std::atomic<int64_t> next{0};
  run_team(threads, [&](int thread) {
    for (int64_t task = next++; task < tasks; task = next++) body(thread, task);
  });
}

// One pass over all lanes and steps, forward or back.
class ScanPass {
 public:
  using Walk = std::function<void(const ScanTask&, void* state, void* sums)>;
  using Summary = std::function<bool(const ScanTask&, void* state, void* product)>;

  ScanPass(const ScanArgs& a, const ScanKernels& kernels, const ScanPlan& plan, int64_t bytes)
      : a_(a), kernels_(kernels), plan_(plan), tiles_((a.H + plan.tile - 1) / plan.tile) {
    constexpr double kSecondsPerByte = 5e-11;
    threads_ = threads_now(plan.threads, double(bytes) * kSecondsPerByte);
  }

  void run(const Walk& walk, bool has_sums) const {
    const int64_t lanes = std::min(plan_.tile, a_.H);
    const std::size_t of_lanes = lanes * kernels_.lane_bytes;
    const std::size_t bytes =
        line_up(of_lanes * ((has_sums ? 3 : 1) + (is_side_by_side() ? 2 : 0)));
    char* const memory = scan_workspace.at_least(threads_ * bytes);
    run_tasks(threads_, a_.B * tiles_, [&](int thread, int64_t index) {
      ScanTask task = task_of(index, 0, a_.T);
      char* const state = memory + thread * bytes;
      char* const sums = state + of_lanes;
      task.scratch = has_sums ? sums + 2 * of_lanes : sums;
      if (has_sums) std::memset(sums, 0, 2 * of_lanes);
      walk(task, state, sums);
    });
    scan_workspace.trim();
  }

  void run_chunks(const Walk& walk, const Summary& summarise) const {
    const int64_t chunks = plan_.chunks, tasks = a_.B * tiles_;
    const std::size_t bytes = line_up(plan_.tile * kernels_.lane_bytes);
    // Of each chunk and task a state and a product, and a state to walk on with.
    const std::size_t place = 3 * bytes;
    const Memory memory = allocate(chunks * tasks * place + 1);
    const auto at = [&](int64_t chunk, int64_t index, int what) {
      return static_cast<char*>(memory.get()) + (chunk * tasks + index) * place + what * bytes;
    };
    std::vector<char> reaches(chunks * tasks);
    run_tasks(threads_, (chunks - 1) * tasks, [&](int, int64_t i) {
      const int64_t chunk = i / tasks, index = i % tasks;
      const ScanTask task = chunk_of(chunk, index);
      if (chunk == 0) return walk(task, at(0, index, 0), nullptr);
      reaches[i] = summarise(task, at(chunk, index, 0), at(chunk, index, 1));
    });
    for (int64_t i = tasks; i < (chunks - 1) * tasks; ++i) {
      const int64_t chunk = i / tasks, index = i % tasks;
      const ScanTask task = chunk_of(chunk, index);
      if (!reaches[i]) continue;
      const int64_t lanes = task.last_lane - task.first_lane;
      if (kernels_.is_finite(lanes, at(chunk, index, 0), at(chunk, index, 1))) {
        kernels_.combine(lanes, at(chunk, index, 1), at(chunk - 1, index, 0), at(chunk, index, 0));
      } else {  // the state may be finite where the product is not: step by step
        std::memcpy(at(chunk, index, 0), at(chunk - 1, index, 0), bytes);
        walk(task, at(chunk, index, 0), nullptr);
      }
    }
    run_tasks(threads_, (chunks - 1) * tasks, [&](int, int64_t i) {
      const int64_t chunk = i / tasks + 1, index = i % tasks;
      std::memcpy(at(chunk, index, 2), at(chunk - 1, index, 0), bytes);
      walk(chunk_of(chunk, index), at(chunk, index, 2), nullptr);
    });
  }

 private:
  bool is_side_by_side() const { return a_.units < a_.H; }
  static std::size_t line_up(std::size_t bytes) {
    constexpr std::size_t kLine = 64;
    return (bytes + kLine - 1) / kLine * kLine;
  }
  ScanTask task_of(int64_t index, int64_t begin, int64_t end) const {
    const int64_t first = index % tiles_ * plan_.tile;
    return {index / tiles_, first, std::min(first + plan_.tile, a_.H), begin, end, nullptr};
  }
  ScanTask chunk_of(int64_t chunk, int64_t index) const {
    return task_of(index, chunk_begin(plan_, a_.T, chunk), chunk_begin(plan_, a_.T, chunk + 1));
  }

  const ScanArgs& a_;
  const ScanKernels& kernels_;
  const ScanPlan& plan_;
  const int64_t tiles_;
  int threads_;
};

at::Tensor new_result(const ScanProblem& p) {
  at::Tensor result = p.empty_result();
  prefer_large_pages(result.mutable_data_ptr(), result.nbytes());
  return result;
}

ScanPlan plan_of(const ScanArgs& a, const ScanKernels& kernels, int64_t bytes) {
  // Rows side by side are walked from end to end.
  return plan_scan({a.T, a.B, a.H, kernels.vector_lanes, kernels.lane_bytes, bytes},
                   available_threads(), /*can_chunk=*/a.units == a.H);
}

at::Tensor forward(const ScanProblem& p) {
  const SerialInForkedChild guard;
  const ScanKernels& kernels = *scan_table()(p.storage);
  const at::Tensor h = new_result(p);
  if (h.numel() == 0) return h;
  ScanLayout layout(p, kernels.vector_lanes);
  ScanForwardArgs args{};
  args.a = layout.operand(p.a), args.b = layout.operand(p.b), args.h = layout.result(h);
  args.h_0 = p.h_0.defined() ? p.h_0.const_data_ptr() : nullptr;
  layout.merge(args);
  const int64_t bytes = 3 * h.numel() * h.element_size();
  const ScanPlan plan = plan_of(args, kernels, bytes);
  const ScanPass pass(args, kernels, plan, bytes);
  const auto walk = [&](const ScanTask& task, void* state, void*) {
    kernels.forward(args, task, state);
  };
  if (plan.is_chunked()) {
    pass.run_chunks(walk, [&](const ScanTask& task, void* state, void* product) {
      return kernels.forward_summary(args, task, state, product);
    });
  } else {
    pass.run(walk, /*has_sums=*/false);
  }
  return h;
}

ScanGradients backward(const ScanProblem& p, const at::Tensor& h, const ScanNeeds& needs) {
  const SerialInForkedChild guard;
  const auto& s = p.sizes;
  const ScanKernels& kernels = *scan_table()(p.storage);
  ScanGradients grads;
  if (needs.b) grads.b = new_result(p);
  if (needs.h_0) grads.h_0 = at::empty({s.B, s.H}, p.b.options());
  if (needs.a) grads.a = new_result(p);
  if (s.B * s.H == 0) return grads;
  ScanLayout layout(p, kernels.vector_lanes);
  ScanBackwardArgs args{};
  args.a = layout.operand(p.a), args.grad_h = layout.operand(p.b);
  if (needs.a) args.h = layout.operand(h);
  args.d_b = layout.result(grads.b);
  args.h_0 = p.h_0.defined() ? p.h_0.const_data_ptr() : nullptr;
  args.d_h_0 = grads.h_0.defined() ? grads.h_0.mutable_data_ptr() : nullptr;
  if (needs.a) args.d_a = layout.result(grads.a);
  layout.merge(args);
  const int64_t streams = 2 + (needs.a ? 2 : 0) + (needs.b ? 1 : 0);
  const int64_t bytes = streams * p.b.numel() * p.b.element_size();
  const ScanPlan plan = plan_of(args, kernels, bytes);
  const bool has_sums = needs.a && s.T > 1 && p.a.stride(0) == 0 && !plan.is_chunked();
  if (has_sums) {
    grads.a = at::empty({1, s.B, s.H}, p.b.options().dtype(p.arithmetic()));
    args.d_a = {}, args.d_a_sums = grads.a.mutable_data_ptr();
  }
  const ScanPass pass(args, kernels, plan, bytes);
  const auto walk = [&](const ScanTask& task, void* state, void* sums) {
    kernels.backward(args, task, state, sums);
  };
  if (plan.is_chunked()) {
    pass.run_chunks(walk, [&](const ScanTask& task, void* state, void* product) {
      return kernels.backward_summary(args, task, state, product);
    });
  } else {
    pass.run(walk, has_sums);
  }
  return grads;
}

class CpuScan final : public ScanEngine {
 public:
  at::Tensor forward(const ScanProblem& p) const override { return cpu::forward(p); }
  ScanGradients backward(const ScanProblem& p, const at::Tensor& h,
                         const ScanNeeds& needs) const override {
    return cpu::backward(p, h, needs);
  }
};

}  // namespace

const ScanEngine& scan_engine() {
  static const CpuScan engine;
  return engine;
}

}  // namespace fastcells::cpu
