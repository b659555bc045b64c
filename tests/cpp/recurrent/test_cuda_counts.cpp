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

using Block = Way<Tier::kBlock>;
using Cluster = Way<Tier::kCluster>;
using ClusterLines = Way<Tier::kCluster, Exchange::kLines>;
using Grid = Way<Tier::kGrid>;
using GridPackets = Way<Tier::kGrid, Exchange::kPackets>;

struct Shape {
  int blocks;  // of a cluster; a grid has as many as the plan gives it
  std::int64_t B, H;
};

// Of a block and step.
struct StepCounts {
  double wavefronts, sent, arrivals, read, operations, single_warp;
};

template <class Cell, class T, class Way, bool is_backward>
simt::Counters count(const Shape& shape, const cuda::Plan& plan, std::int64_t steps,
                     unsigned seed) {
  simt::Counters counters;
  Layer<Cell, T> layer(steps, shape.B, shape.H);
  const Launch launch{plan.unit_warps, plan.parts, plan.blocks, seed, &counters};
  constexpr Tier kTier = Way::kTier;
  constexpr int kRowTiles = cuda::batch_tiles(kTier, is_backward);
  constexpr int kTiles = is_backward ? 1 : cuda::forward_tiles(Cell::kGates);
  constexpr int kCached =
      cuda::cached_steps(kTier, kTiles, Cell::kGates, sizeof(T), Way::kExchange);
  if constexpr (is_backward) {
    using Traits = BackwardTraits<Cell, T, kTier, kRowTiles, kCached, Way::kExchange>;
    run_kernel<Traits>(launch, sequence_backward_kernel<Visible<Cell>, Traits>, layer.backward());
  } else {
    using Traits = ForwardTraits<Cell, T, kTier, kRowTiles, kCached, Way::kExchange>;
    run_kernel<Traits>(launch, sequence_forward_kernel<Visible<Cell>, Traits>, layer.forward());
  }
  return counters;
}

constexpr std::int64_t kFew = 3, kMany = 5;  // steps: both buffers of the exchange in turn

template <class Cell, class T, class Way, bool is_backward>
StepCounts count_step(const Shape& shape, unsigned seed) {
  const cuda::Problem problem{Cell::kGates, Cell::kStates, false,   false,      int(sizeof(T)), 1,
                              kMany,        shape.B,       shape.H, is_backward};
  cuda::Plan plan;
  constexpr bool kGrid = Way::kTier == Tier::kGrid;
  const bool fits =
      kGrid ? cuda::try_grid(problem, kCard, plan, Way::kExchange)
            : cuda::try_blocks(problem, kCard, Way::kTier, shape.blocks, plan, Way::kExchange);
  if (!fits) throw simt::Fault("the tier does not hold the layer");
  const auto few = count<Cell, T, Way, is_backward>(shape, plan, kFew, seed);
  const auto many = count<Cell, T, Way, is_backward>(shape, plan, kMany, seed);
  const std::int64_t blocks = kGrid ? plan.blocks : plan.blocks * plan.slices;
  const auto a_step = [&](std::int64_t simt::Counters::* member) {
    return double(many.*member - few.*member) / double(blocks * (kMany - kFew));
  };
  using C = simt::Counters;
  return {a_step(&C::wavefronts),    a_step(&C::segments_sent), a_step(&C::arrivals),
          a_step(&C::segments_read), a_step(&C::operations),    a_step(&C::single_warp)};
}

bool is_same(const StepCounts& a, const StepCounts& b) {
  return a.wavefronts == b.wavefronts && a.sent == b.sent && a.arrivals == b.arrivals &&
         a.read == b.read && a.operations == b.operations && a.single_warp == b.single_warp;
}

template <class Way>
std::string way_name() {
  constexpr const char* kTiers[] = {"block", "cluster", "grid"};
  constexpr const char* kExchanges[] = {"", " with packets", " with lines"};
  return std::string(kTiers[int(Way::kTier)]) + kExchanges[int(Way::kExchange)];
}

template <class Way, bool is_backward>
bool check(const Shape& shape) {
  const std::string name = way_name<Way>() + (is_backward ? ", backward" : ", forward");
  return run_case(name, [&] {
    const StepCounts c = count_step<LSTM, __half, Way, is_backward>(shape, 1);
    const StepCounts again = count_step<LSTM, __half, Way, is_backward>(shape, 2);
    const bool is_global = Way::kTier == Tier::kGrid, is_sent = Way::kTier != Tier::kBlock;
    const bool ok = c.operations >= c.single_warp && (c.sent > 0) == is_sent &&
                    (is_global ? c.read > 0 : c.read == 0 && c.wavefronts > 0);
    return end_case(ok ? 0 : 1, 0, is_same(c, again));
  });
}
template <class Way>
bool check_both(const Shape& shape) {
  return check<Way, false>(shape) & check<Way, true>(shape);
}

// Lines cost no more wavefronts than padded rows do; but what is sent fills its segments (16 bits:
// in rows a piece is half of one), and arrives in one wavefront a line, where rows take four.
constexpr int kLineSegments = 4;
template <class T, bool is_backward>
bool check_lines(const Shape& shape) {
  const std::string name =
      std::string(type_name<T>()) + (is_backward ? "lines, backward" : "lines, forward");
  return run_case(name, [&] {
    const StepCounts rows = count_step<LSTM, T, Cluster, is_backward>(shape, 1);
    const StepCounts lines = count_step<LSTM, T, ClusterLines, is_backward>(shape, 1);
    const bool ok = lines.wavefronts == rows.wavefronts && lines.operations == rows.operations &&
                    lines.arrivals * kLineSegments == lines.sent &&
                    (sizeof(T) == 4 ? lines.sent == rows.sent : 2 * lines.sent == rows.sent) &&
                    lines.arrivals * 4 == rows.arrivals;
    return end_case(ok ? 0 : 1, 0);
  });
}

template <class T, class Way, bool is_backward>
void print(const Shape& shape) {
  const StepCounts c = count_step<LSTM, T, Way, is_backward>(shape, 1);
  const std::string of = shape.blocks == 1 ? "" : ", " + std::to_string(shape.blocks);
  say("| %s | %s%s | %d, %d | %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f |\n",
      sizeof(T) == 4 ? "float32" : "16 bits", way_name<Way>().c_str(), of.c_str(), int(shape.H),
      int(shape.B), is_backward ? "back" : "forward", c.wavefronts, c.sent, c.arrivals, c.read,
      c.operations, c.single_warp);
}
template <class T, class Way>
void print_both(const Shape& forward, int blocks_back) {
  print<T, Way, false>(forward);
  print<T, Way, true>({blocks_back, forward.B, forward.H});
}

bool check_small() {
  const Shape whole{4, 8, 128};
  return check_both<Block>({1, 9, 24}) & check_both<Cluster>({2, 9, 40}) &
         check_both<ClusterLines>({2, 9, 40}) & check_both<Grid>({0, 9, 40}) &
         check_both<GridPackets>({0, 9, 40}) & check_lines<__half, false>(whole) &
         check_lines<__half, true>(whole) & check_lines<float, false>(whole) &
         check_lines<float, true>(whole);
}

void print_plans() {
  say("| LSTM | tier, blocks | H, B | way | wavefronts | segments sent | arrivals | segments read "
      "| operations | of a single warp |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | "
      "--- |\n");
  print_both<__half, Block>({1, 8, 64}, 1);
  print_both<__half, Cluster>({8, 8, 512}, 8);
  print_both<__half, ClusterLines>({8, 8, 512}, 8);
  print_both<__half, Grid>({96, 16, 768}, 48);
  print_both<__half, GridPackets>({96, 16, 768}, 48);
  print_both<float, Cluster>({8, 8, 256}, 8);
  print_both<float, ClusterLines>({8, 8, 256}, 8);
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
