#include "recurrent/cpu/step_kernels.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "recurrent/stepwise/stages.h"

namespace fastcells {
namespace {

struct Cpu {
  using Half = c10::Half;
  using BFloat16 = c10::BFloat16;
  template <class T>
  using Operand = float;  // 16-bit storage is widened before a product
};

// Fewer elements than this are not worth waking another thread for (about 5 us of work).
constexpr int64_t kElementsPerThread = 2048;

constexpr auto for_each_element = [](const auto& step, int64_t rows, int64_t units) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, units));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t u = 0; u < units; ++u) step(b, u);
    }
  });
};

class CpuStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    dispatch_storage<Cpu>(layer.storage, [&](auto types) {
      using Types = decltype(types);
      if (knows_no_cell(stage)) {
        return run_forward_of_any_cell<Types>(stage, args, for_each_element);
      }
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        run_forward_of<typename decltype(cell)::type, Types>(stage, args, for_each_element);
      });
    });
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    dispatch_storage<Cpu>(layer.storage, [&](auto types) {
      using Types = decltype(types);
      if (knows_no_cell(stage)) {
        return run_backward_of_any_cell<Types>(stage, args, for_each_element);
      }
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        run_backward_of<typename decltype(cell)::type, Types>(stage, args, for_each_element);
      });
    });
  }
  at::ScalarType operand(const Layer& layer) const override { return layer.arithmetic(); }
};

}  // namespace

const StepKernels& cpu_step_kernels() {
  static const CpuStepKernels kernels;
  return kernels;
}

}  // namespace fastcells
