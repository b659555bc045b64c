#include "recurrent/cpu/single_step.h"

#include <algorithm>

#include "cpu/team.h"
#include "recurrent/engine.h"

namespace fastcells::cpu {
namespace {

// Bytes of weights below which a second thread costs more than it brings.
constexpr int64_t kStepBytesPerThread = 512 * 1024;

}  // namespace

int step_threads(const LayerSizes& s, int64_t element_bytes) {
  const int64_t bytes = s.G * s.H * (s.I + s.H) * element_bytes;
  return int(std::clamp<int64_t>(bytes / kStepBytesPerThread, 1, available_threads()));
}

StepArgs step_arguments(const LayerSizes& s, const DirectionWeights& w) {
  StepArgs args{};
  args.B = s.B, args.I = s.I, args.H = s.H;
  args.weight_ih = pointer(w.weight_ih), args.weight_hh = pointer(w.weight_hh);
  args.bias_ih = pointer(w.bias_ih), args.bias_hh = pointer(w.bias_hh);
  return args;
}

void run_step(const CellKernels& kernels, const LayerSizes& s, int64_t element_bytes,
              const StepArgs& args) {
  constexpr double kSecondsPerByte = 3e-11;
  const double bytes = double(s.G * s.H * (s.I + s.H) * element_bytes);
  const int threads = threads_now(step_threads(s, element_bytes), bytes * kSecondsPerByte);
  const int64_t blocks = (s.H + kernels.lanes - 1) / kernels.lanes;
  const auto unit = [&](int64_t block) { return std::min(s.H, block * kernels.lanes); };
  run_team(threads, [&](int thread) {
    kernels.step(args, unit(blocks * thread / threads), unit(blocks * (thread + 1) / threads));
  });
}

void run_step(const CellKernels& kernels, const LayerSizes& s, const StepTensors& t,
              const at::Tensor& h_new, const at::Tensor& c_new) {
  const auto at_start = [](const at::Tensor& x) -> const void* {
    return x.defined() ? x.const_data_ptr() : nullptr;
  };
  StepArgs args{};
  args.B = s.B, args.I = s.I, args.H = s.H;
  args.input = at_start(t.input), args.h = at_start(t.h), args.c = at_start(t.c);
  args.weight_ih = at_start(t.weight_ih), args.weight_hh = at_start(t.weight_hh);
  args.bias_ih = at_start(t.bias_ih), args.bias_hh = at_start(t.bias_hh);
  args.h_new = pointer(h_new), args.c_new = pointer(c_new);
  run_step(kernels, s, t.weight_hh.element_size(), args);
}

}  // namespace fastcells::cpu
