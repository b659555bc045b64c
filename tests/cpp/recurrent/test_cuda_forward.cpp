// The CUDA sequence kernel forward, under the emulator or on a card, against plain loops in double:
// every cell, every type of storage, one block, clusters and grids, both directions, lengths,
// resets, K in parts, sizes that miss tiles. Every cell with every type: on a card.
#include "cuda_sequence_checks.h"

#include "recurrent/cuda/sequence_forward.cuh"

namespace fastcells {
namespace {

template <class Cell, class T>
struct Forward {
  static constexpr int G = Cell::kGates, K = Cell::kSaved;

  explicit Forward(const Case& c)
      : problem(c, rounded<T>, as_float),
        expected(Naive<Cell>::run(problem, rounded<T>)),
        x_gates(unwritten<float>(c.T * c.B * G * c.H)),
        bias_ih(stored<float>(problem.b_ih)),
        bias_hh(stored<float>(problem.b_hh)),
        w_hh(stored<T>(problem.w_hh)),
        h_0(stored<T>(problem.h_0)),
        c_0(stored<T>(problem.c_0)),
        output(unwritten<T>(c.T * c.B * c.H)),
        saved(unwritten<T>(c.T * c.B * K * c.H)),
        h_n(unwritten<T>(c.B * c.H)),
        c_n(unwritten<T>(c.B * c.H)),
        cells(unwritten<float>(c.T * c.B * c.H)) {
    for (std::int64_t row = 0; row < c.T * c.B; ++row) {  // NaN where no step exists
      for (std::int64_t m = 0; m < G * c.H && problem.exists(row); ++m) {
        double sum = 0;
        for (std::int64_t k = 0; k < c.I; ++k) {
          sum += problem.w_ih[m * c.I + k] * problem.input[row * c.I + k];
        }
        x_gates[row * G * c.H + m] = float(sum);
      }
    }
  }

  SequenceForwardArgs arguments() {
    const Case& c = problem.c;
    SequenceForwardArgs args{};
    args.T = c.T, args.B = c.B, args.H = c.H;
    args.lengths = address(problem.lengths);
    args.resets = reinterpret_cast<const bool*>(address(problem.resets));
    args.output_stride = args.cells_stride = c.H, args.saved_stride = K * c.H;
    SequenceDirection& d = args.directions[0];
    d.x_gates = x_gates.data(), d.weight_hh = w_hh.data();
    d.bias_ih = address(bias_ih), d.bias_hh = address(bias_hh);
    d.h_0 = address(h_0), d.c_0 = address(c_0);
    d.output = output.data(), d.h_n = h_n.data(), d.c_n = c_n.data();
    d.cells = cells.data(), d.saved = saved.data(), d.reverse = c.reverse;
    return args;
  }

  double error() const {
    double error = std::max(worst(output, expected.output), worst(h_n, expected.h_n));
    error = std::max(error, worst(saved, expected.saved));
    if (Cell::kStates == 1) return error;
    return std::max({error, worst(cells, expected.cells), worst(c_n, expected.c_n)});
  }

  bool is_equal(const Forward& other) const {
    return same_bits(output, other.output) && same_bits(saved, other.saved) &&
           same_bits(h_n, other.h_n) && same_bits(c_n, other.c_n) && same_bits(cells, other.cells);
  }

  Problem<Cell> problem;
  Results expected;
  std::vector<float> x_gates, bias_ih, bias_hh;
  std::vector<T> w_hh, h_0, c_0, output, saved, h_n, c_n;
  std::vector<float> cells;
};

// A step's h is rounded to storage, and tips over by a unit where sums differ in their last bits.
// float32 is three products of TF32: a single one would be off by 1e-3.
template <class T>
constexpr double kTolerance = sizeof(T) == 4              ? 3e-6
                              : std::is_same_v<T, __half> ? 2e-3
                                                          : 1.6e-2;

template <class Cell, class Traits>
Forward<Cell, typename Traits::T> run_on(const Case& c, const Launch& launch) {
  Forward<Cell, typename Traits::T> run(c);
  run_kernel<Traits>(launch, sequence_forward_kernel<Cell, Traits>, run.arguments());
  return run;
}
template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached>
bool check(const Case& c, const Launch& launch) {
  using Traits = ForwardTraits<Cell, T, kTier, kBatchTiles, kCached>;
  return run_case(case_name<Cell, Traits>(c, launch),
                  [&] { return end_case(run_on<Cell, Traits>(c, launch).error(), kTolerance<T>); });
}
// A grid exchanges by counters and by packets, a cluster in rows and in lines, with the same bits.
template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached>
bool check_both(const Case& c, const Launch& launch) {
  constexpr Exchange kOther = kTier == Tier::kGrid ? Exchange::kPackets : Exchange::kLines;
  using Usual = ForwardTraits<Cell, T, kTier, kBatchTiles, kCached>;
  using Other = ForwardTraits<Cell, T, kTier, kBatchTiles, kCached, kOther>;
  return check_exchanges<Cell, Usual, Other>(c, launch, kTolerance<T>, [&](auto traits) {
    return run_on<Cell, typename decltype(traits)::type>(c, launch);
  });
}

// On a card: the layer by every tier that holds it, as the plan would launch it. Errors add up over
// hundreds of steps and rows, hence four times the tolerance of a few.
template <class Cell, class T>
bool check_every_tier(const Case& c) {
  const Forward<Cell, T> prepared(c);
  bool ok = true;
  each_launch<Cell>(c, int(sizeof(T)), /*is_backward=*/false, [&](auto way, const Launch& launch) {
    constexpr Tier kTier = way.kTier;
    using Traits = ForwardTraits<Cell, T, kTier, cuda::batch_tiles(kTier, false),
                                 cuda::cached_steps(kTier, cuda::forward_tiles(Cell::kGates),
                                                    Cell::kGates, sizeof(T), way.kExchange),
                                 way.kExchange>;
    ok &= run_case(case_name<Cell, Traits>(c, launch), [&] {
      Forward<Cell, T> run = prepared;
      run_kernel<Traits>(launch, sequence_forward_kernel<Cell, Traits>, run.arguments());
      return end_case(run.error(), 4 * kTolerance<T>);
    });
  });
  return ok;
}

// float32 takes every case, float16 and bfloat16 share them: the emulator is slow.
struct CheckCell {
  template <class Cell, class T>
  bool operator()() const {
    constexpr auto kBlock = Tier::kBlock, kCluster = Tier::kCluster, kGrid = Tier::kGrid;
    bool ok = true;
    if constexpr (!std::is_same_v<T, __half>) {
      ok &= check<Cell, T, kBlock, 1, 4>({5, 3, 4, 20}, {4, 1, 1, 1});
      ok &= check_both<Cell, T, kCluster, 1, 0>({6, 9, 4, 50, false, true, true}, {4, 1, 2, 3});
      ok &= check_both<Cell, T, kGrid, 2, 3>({5, 7, 2, 24, false, true, true}, {1, 2, 3, 8});
      ok &= check_both<Cell, T, kGrid, 2, 3>({3, 37, 2, 24, true, true, false, true, false},
                                             {1, 1, 3, 7});
    }
    if (is_short() && sizeof(T) == 4) return ok;  // every tier and exchange
    if constexpr (!std::is_same_v<T, __nv_bfloat16>) {
      ok &= check<Cell, T, kBlock, 2, 1>({4, 11, 3, 32, true, true, true}, {4, 2, 1, 2});
      ok &= check_both<Cell, T, kCluster, 1, 1>({5, 2, 3, 61, true, false, true, false},
                                                {2, 2, 4, 4});
      ok &= check_both<Cell, T, kGrid, 1, 1>({4, 9, 3, 45, false, true, true}, {2, 2, 3, 6});
    }
    if constexpr (sizeof(T) == 4) {
      ok &= check_both<Cell, T, kCluster, 1, 1>({3, 8, 3, 64, false, true, false, true, false},
                                                {1, 1, 8, 5});
    }
    if (is_short()) return ok;
#ifdef __CUDACC__
    ok &= check_large<Cell, T>([](const Case& c) { return check_every_tier<Cell, T>(c); });
#endif
    return ok;
  }
};

}  // namespace
}  // namespace fastcells

int main() { return fastcells::check_all(fastcells::CheckCell()) ? 0 : 1; }
