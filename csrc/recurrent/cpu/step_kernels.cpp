#include "recurrent/cpu/step_kernels.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "recurrent/stepwise/step_backward.h"
#include "recurrent/stepwise/step_forward.h"

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

template <class Step>
void for_each_element(const Step& step, int64_t rows, int64_t units) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, units));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t u = 0; u < units; ++u) step(b, u);
    }
  });
}

template <class Types>
void forward_of_any_cell(Stage stage, const StepForwardArgs& a) {
  if (stage == Stage::kStart) {
    for_each_element(StartStep<Types>{a}, a.rows.B, std::max(a.P, a.H));
  } else {
    for_each_element(ProjectForwardStep<Types>{a}, a.rows.B, a.P);
  }
}

template <class Cell, class Types>
void forward_of(Stage stage, const StepForwardArgs& a) {
  if (stage == Stage::kForward) {
    for_each_element(ForwardStep<Cell, Types>{a}, a.rows.B, a.H);
  } else if constexpr (Cell::kTwoProducts) {
    for_each_element(ResetForwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
}

template <class Types>
void backward_of_any_cell(Stage stage, const StepBackwardArgs& a) {
  if (stage == Stage::kPrevious) {
    for_each_element(PreviousStep<Types>{a}, a.rows.T * a.rows.B, a.P);
  } else if (stage == Stage::kProjectBackward) {
    for_each_element(ProjectBackwardStep<Types>{a}, a.rows.B, a.P);
  } else {
    for_each_element(FinishStep<Types>{a}, a.rows.B, std::max(a.P, a.H));
  }
}

template <class Cell, class Types>
void backward_of(Stage stage, const StepBackwardArgs& a) {
  if (stage == Stage::kBackward) {
    for_each_element(BackwardStep<Cell, Types>{a}, a.rows.B, a.H);
  } else if constexpr (Cell::kTwoProducts) {
    for_each_element(ResetBackwardStep<Cell, Types>{a}, a.rows.B, a.H);
  }
}

class CpuStepKernels final : public StepKernels {
 public:
  void forward(Stage stage, const Layer& layer, const StepForwardArgs& args) const override {
    dispatch_storage<Cpu>(layer.storage, [&](auto types) {
      using Types = decltype(types);
      if (stage == Stage::kStart || stage == Stage::kProjectForward) {
        return forward_of_any_cell<Types>(stage, args);
      }
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        forward_of<typename decltype(cell)::type, Types>(stage, args);
      });
    });
  }
  void backward(Stage stage, const Layer& layer, const StepBackwardArgs& args) const override {
    dispatch_storage<Cpu>(layer.storage, [&](auto types) {
      using Types = decltype(types);
      if (stage != Stage::kBackward && stage != Stage::kResetBackward) {
        return backward_of_any_cell<Types>(stage, args);
      }
      dispatch_cell(layer.cell.kind, [&](auto cell) {
        backward_of<typename decltype(cell)::type, Types>(stage, args);
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
