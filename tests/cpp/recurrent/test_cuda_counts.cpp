// What a step of the CUDA sequence kernels is counted to do (tests/simt/counters.h), a block: the
// difference of two launches over the steps between them, in which what is done once drops out.
//
//   test_cuda_counts           small layers: that counts are whole, the same in any order of
//                              threads, and none where a tier has no use for what is counted
//   test_cuda_counts --plans   layers as the plan launches them on a card: the table of
//                              docs/kernels/recurrent-cuda.md (minutes)
#include "cuda_sequence_checks.h"

#include "recurrent/cuda/sequence_backward.cuh"
#include "recurrent/cuda/sequence_forward.cuh"

namespace fastcells {
namespace {

// A cell whose work is seen: an operation of the warp.
template <class Cell>
struct Visible : Cell {
  template <class... Args>
  static void forward(Args&&... args) {
    simt::see_work();
    Cell::forward(args...);
  }
  template <class... Args>
  static void backward(Args&&... args) {
    simt::see_work();
    Cell::backward(args...);
  }
};

// Everything that a layer of one direction reads and writes, zero: what is counted does not depend
// on it.
template <class Cell, class T>
struct Layer {
  static constexpr std::int64_t G = Cell::kGates, S = Cell::kSaved;

  Layer(std::int64_t steps, std::int64_t rows, std::int64_t units)
      : steps(steps),
        B(rows),
        H(units),
        floats(std::size_t(steps * B * G * H)),
        numbers(std::size_t(std::max(G * H * H, steps * B * std::max(S, G) * H))),
        out(std::size_t(steps * B * std::max(S, G) * H)),
        cells(std::size_t(steps * B * H)) {}

  template <class Args>
  Args sizes() const {
    Args a{};
    a.T = steps, a.B = B, a.H = H;
    a.output_stride = a.cells_stride = H, a.saved_stride = S * H;
    return a;
  }
  SequenceForwardArgs forward() {
    auto a = sizes<SequenceForwardArgs>();
    SequenceDirection& d = a.directions[0];
    d.x_gates = floats.data(), d.weight_hh = numbers.data();
    d.output = d.saved = d.h_n = d.c_n = out.data(), d.cells = cells.data();
    return a;
  }
  SequenceBackwardArgs backward() {
    auto a = sizes<SequenceBackwardArgs>();
    SequenceBackwardDirection& d = a.directions[0];
    d.weight_hh_t = d.saved = d.output = d.d_output = numbers.data();
    d.cells = floats.data(), d.dx_gates = d.dg_gates = out.data();
    d.d_h_0 = d.d_c_0 = cells.data();
    return a;
  }

  std::int64_t steps, B, H;
  std::vector<float> floats;
  std::vector<T> numbers, out;
  std::vector<float> cells;
};

struct Shape {
  Tier tier;
  int blocks;
  std::int64_t B, H;
};

// Of a block and step.
struct StepCounts {
  double wavefronts, sent, read, operations, single_warp;
};

template <class Cell, class T, Tier kTier, bool is_backward>
simt::Counters count(const Shape& shape, const cuda::Plan& plan, std::int64_t steps,
                     unsigned seed) {
  simt::Counters counters;
  Layer<Cell, T> layer(steps, shape.B, shape.H);
  const Launch launch{plan.unit_warps, plan.parts, plan.blocks, seed, &counters};
  constexpr int kRowTiles = cuda::batch_tiles(kTier, is_backward);
  constexpr int kTiles = is_backward ? 1 : cuda::forward_tiles(Cell::kGates);
  constexpr int kCached = cuda::cached_steps(kTier, kTiles, Cell::kGates, sizeof(T));
  if constexpr (is_backward) {
    using Traits = BackwardTraits<Cell, T, kTier, kRowTiles, kCached>;
    run_kernel<Traits>(launch, sequence_backward_kernel<Visible<Cell>, Traits>, layer.backward());
  } else {
    using Traits = ForwardTraits<Cell, T, kTier, kRowTiles, kCached>;
    run_kernel<Traits>(launch, sequence_forward_kernel<Visible<Cell>, Traits>, layer.forward());
  }
  return counters;
}

constexpr std::int64_t kFew = 3, kMany = 5;  // steps: both buffers of the exchange in turn

template <class Cell, class T, Tier kTier, bool is_backward>
StepCounts count_step(const Shape& shape, unsigned seed) {
  const cuda::Problem problem{Cell::kGates, Cell::kStates, false,   false,      int(sizeof(T)), 1,
                              kMany,        shape.B,       shape.H, is_backward};
  cuda::Plan plan;
  const bool fits = kTier == Tier::kGrid
                        ? cuda::try_grid(problem, kCard, plan)
                        : cuda::try_blocks(problem, kCard, kTier, shape.blocks, plan);
  if (!fits) throw simt::Fault("the tier does not hold the layer");
  const auto few = count<Cell, T, kTier, is_backward>(shape, plan, kFew, seed);
  const auto many = count<Cell, T, kTier, is_backward>(shape, plan, kMany, seed);
  const std::int64_t blocks = kTier == Tier::kGrid ? plan.blocks : plan.blocks * plan.slices;
  const auto a_step = [&](std::int64_t simt::Counters::* member) {
    return double(many.*member - few.*member) / double(blocks * (kMany - kFew));
  };
  using C = simt::Counters;
  return {a_step(&C::wavefronts), a_step(&C::segments_sent), a_step(&C::segments_read),
          a_step(&C::operations), a_step(&C::single_warp)};
}

bool is_same(const StepCounts& a, const StepCounts& b) {
  return a.wavefronts == b.wavefronts && a.sent == b.sent && a.read == b.read &&
         a.operations == b.operations && a.single_warp == b.single_warp;
}

template <class Cell, class T, Tier kTier, bool is_backward>
bool check(const Shape& shape) {
  constexpr const char* kTiers[] = {"block", "cluster", "grid"};
  char name[100];
  std::snprintf(name, sizeof name, "%s %s%s, %s", Cell::kName, type_name<T>(),
                is_backward ? "backward" : "forward", kTiers[int(kTier)]);
  return run_case(name, [&] {
    const StepCounts c = count_step<Cell, T, kTier, is_backward>(shape, 1);
    const StepCounts again = count_step<Cell, T, kTier, is_backward>(shape, 2);
    const bool is_global = kTier == Tier::kGrid, is_sent = kTier != Tier::kBlock;
    const bool ok = c.operations >= c.single_warp && (c.sent > 0) == is_sent &&
                    (is_global ? c.read > 0 : c.read == 0 && c.wavefronts > 0);
    return end_case(ok ? 0 : 1, 0, is_same(c, again));
  });
}

template <class Cell, class T, Tier kTier, bool is_backward>
void print(const Shape& shape) {
  constexpr const char* kTiers[] = {"block", "cluster of", "grid of"};
  const StepCounts c = count_step<Cell, T, kTier, is_backward>(shape, 1);
  const std::string blocks = kTier == Tier::kBlock ? "" : " " + std::to_string(shape.blocks);
  say("| %s | %s%s | %d, %d | %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n",
      sizeof(T) == 4 ? "float32" : "16 bits", kTiers[int(kTier)], blocks.c_str(), int(shape.H),
      int(shape.B), is_backward ? "back" : "forward", c.wavefronts, c.sent, c.read, c.operations,
      c.single_warp);
}
template <class T, Tier kTier>
void print_tier(const Shape& forward, int blocks_back) {
  print<LSTM, T, kTier, false>(forward);
  print<LSTM, T, kTier, true>({kTier, blocks_back, forward.B, forward.H});
}

bool check_small() {
  constexpr auto kBlock = Tier::kBlock, kCluster = Tier::kCluster, kGrid = Tier::kGrid;
  bool ok = check<LSTM, __half, kBlock, false>({kBlock, 1, 9, 24});
  ok &= check<LSTM, __half, kBlock, true>({kBlock, 1, 9, 24});
  ok &= check<LSTM, __half, kCluster, false>({kCluster, 2, 9, 40});
  ok &= check<LSTM, __half, kCluster, true>({kCluster, 2, 9, 40});
  ok &= check<LSTM, __half, kGrid, false>({kGrid, 0, 9, 40});
  ok &= check<LSTM, __half, kGrid, true>({kGrid, 0, 9, 40});
  return ok;
}

void print_plans() {
  say("| LSTM | tier | H, B | way | wavefronts | segments sent | segments read | operations | "
      "of a single warp |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  print_tier<__half, Tier::kBlock>({Tier::kBlock, 1, 8, 64}, 1);
  print_tier<__half, Tier::kCluster>({Tier::kCluster, 8, 8, 512}, 8);
  print_tier<__half, Tier::kGrid>({Tier::kGrid, 96, 16, 768}, 48);
  print_tier<float, Tier::kCluster>({Tier::kCluster, 8, 8, 256}, 8);
}

}  // namespace
}  // namespace fastcells

int main(int count, char** arguments) {
  using namespace fastcells;
  if (count > 1 && std::string(arguments[1]) == "--plans") {
    print_plans();
    return 0;
  }
  return check_small() ? 0 : 1;
}
