// The CUDA sequence kernel backward, under the emulator or on a card, against plain loops in
// double: as test_cuda_forward.cpp.
#include "cuda_sequence_checks.h"

#include "recurrent/cuda/sequence_backward.cuh"

namespace fastcells {
namespace {

// [G, H, H], each gate transposed.
Values transposed(const Values& w, std::int64_t H) {
  Values result(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::int64_t gate = std::int64_t(i) / H / H, from = std::int64_t(i) / H % H;
    result[(gate * H + std::int64_t(i) % H) * H + from] = w[i];
  }
  return result;
}

template <class Cell, class T>
struct Backward {
  static constexpr int G = Cell::kGates, K = Cell::kSaved;

  explicit Backward(const Case& c)
      : problem(c, rounded<T>, as_float),
        expected(Naive<Cell>::run(problem, rounded<T>)),
        w_hh_t(stored<T>(transposed(problem.w_hh, c.H))),
        h_0(stored<T>(problem.h_0)),
        c_0(stored<T>(problem.c_0)),
        d_h_n(stored<T>(problem.d_h_n)),
        d_c_n(stored<T>(problem.d_c_n)),
        d_output(stored<T>(problem.d_output)),
        output(stored<T>(expected.output)),
        saved(stored<T>(expected.saved)),
        dx_gates(unwritten<T>(c.T * c.B * G * c.H)),
        dg_gates(unwritten<T>(c.T * c.B * G * c.H)),
        cells(stored<float>(expected.cells)),
        d_cells(stored<float>(problem.d_cells)),
        d_h_0(unwritten<float>(c.B * c.H)),
        d_c_0(unwritten<float>(c.B * c.H)) {}

  SequenceBackwardArgs arguments() {
    const Case& c = problem.c;
    SequenceBackwardArgs args{};
    args.T = c.T, args.B = c.B, args.H = c.H;
    args.lengths = address(problem.lengths);
    args.resets = reinterpret_cast<const bool*>(address(problem.resets));
    args.output_stride = args.cells_stride = c.H, args.saved_stride = K * c.H;
    SequenceBackwardDirection& d = args.directions[0];
    d.weight_hh_t = w_hh_t.data(), d.saved = saved.data(), d.output = output.data();
    d.cells = cells.data(), d.h_0 = address(h_0), d.c_0 = address(c_0);
    d.d_output = d_output.data(), d.d_cells = d_cells.data();
    d.d_h_n = d_h_n.data(), d.d_c_n = d_c_n.data();
    d.dx_gates = dx_gates.data(), d.dg_gates = Cell::kAdditive ? nullptr : dg_gates.data();
    d.d_h_0 = d_h_0.data(), d.d_c_0 = d_c_0.data(), d.reverse = c.reverse;
    return args;
  }

  // The gates' gradients are seen through the input's and the biases'.
  double error() const {
    const Case& c = problem.c;
    const auto& dg = Cell::kAdditive ? dx_gates : dg_gates;
    Values d_input(c.T * c.B * c.I, NAN), d_b_ih(G * c.H), d_b_hh(G * c.H);
    bool is_clear = true;
    for (std::int64_t row = 0; row < c.T * c.B; ++row) {
      for (std::int64_t k = 0; k < c.I && problem.exists(row); ++k) d_input[row * c.I + k] = 0;
      for (std::int64_t m = 0; m < G * c.H; ++m) {
        const double dx_m = double(dx_gates[row * G * c.H + m]);
        const double dg_m = double(dg[row * G * c.H + m]);
        if (!problem.exists(row)) is_clear = is_clear && dx_m == 0 && dg_m == 0;
        d_b_ih[m] += dx_m, d_b_hh[m] += dg_m;
        for (std::int64_t k = 0; k < c.I; ++k) {
          d_input[row * c.I + k] += dx_m * problem.w_ih[m * c.I + k];
        }
      }
    }
    Values d_input_expected = expected.d_input;
    for (Values* values : {&d_input, &d_input_expected}) {
      for (double& value : *values) value = std::isnan(value) ? 0 : value;
    }
    double error = std::max({worst(d_input, d_input_expected), worst(d_b_ih, expected.d_b_ih),
                             worst(d_b_hh, expected.d_b_hh), worst(d_h_0, expected.d_h_0)});
    if (Cell::kStates == 2) error = std::max(error, worst(d_c_0, expected.d_c_0));
    return is_clear ? error : INFINITY;
  }

  bool is_equal(const Backward& other) const {
    return same_bits(dx_gates, other.dx_gates) && same_bits(dg_gates, other.dg_gates) &&
           same_bits(d_h_0, other.d_h_0) && same_bits(d_c_0, other.d_c_0);
  }

  Problem<Cell> problem;
  Results expected;
  std::vector<T> w_hh_t, h_0, c_0, d_h_n, d_c_n, d_output, output, saved, dx_gates, dg_gates;
  std::vector<float> cells, d_cells, d_h_0, d_c_0;
};

// What was saved is rounded to storage, and the gates' gradients are: errors that add up over the
// sums of a few dozen terms.
template <class T>
constexpr double kTolerance = sizeof(T) == 4              ? 1e-5
                              : std::is_same_v<T, __half> ? 6e-3
                                                          : 4.8e-2;

template <class Cell, class Traits>
Backward<Cell, typename Traits::T> run_on(const Case& c, const Launch& launch) {
  Backward<Cell, typename Traits::T> run(c);
  run_kernel<Traits>(launch, sequence_backward_kernel<Cell, Traits>, run.arguments());
  return run;
}
template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached>
bool check(const Case& c, const Launch& launch) {
  using Traits = BackwardTraits<Cell, T, kTier, kBatchTiles, kCached>;
  return run_case(case_name<Cell, Traits>(c, launch),
                  [&] { return end_case(run_on<Cell, Traits>(c, launch).error(), kTolerance<T>); });
}
// A grid exchanges by counters and by packets, a cluster in rows and in lines, with the same bits.
template <class Cell, class T, Tier kTier, int kBatchTiles, int kCached>
bool check_both(const Case& c, const Launch& launch) {
  constexpr Exchange kOther = kTier == Tier::kGrid ? Exchange::kPackets : Exchange::kLines;
  using Usual = BackwardTraits<Cell, T, kTier, kBatchTiles, kCached>;
  using Other = BackwardTraits<Cell, T, kTier, kBatchTiles, kCached, kOther>;
  return check_exchanges<Cell, Usual, Other>(c, launch, kTolerance<T>, [&](auto traits) {
    return run_on<Cell, typename decltype(traits)::type>(c, launch);
  });
}

// On a card: the layer by every tier that holds it, as the plan would launch it. Errors add up over
// hundreds of steps and rows, hence four times the tolerance of a few.
template <class Cell, class T>
bool check_every_tier(const Case& c) {
  const Backward<Cell, T> prepared(c);
  bool ok = true;
  each_launch<Cell>(c, int(sizeof(T)), /*is_backward=*/true, [&](auto way, const Launch& launch) {
    constexpr Tier kTier = way.kTier;
    using Traits =
        BackwardTraits<Cell, T, kTier, cuda::batch_tiles(kTier, true),
                       cuda::cached_steps(kTier, 1, Cell::kGates, sizeof(T), way.kExchange),
                       way.kExchange>;
    ok &= run_case(case_name<Cell, Traits>(c, launch), [&] {
      Backward<Cell, T> run = prepared;
      run_kernel<Traits>(launch, sequence_backward_kernel<Cell, Traits>, run.arguments());
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
      ok &= check<Cell, T, kBlock, 1, 4>({5, 3, 4, 20}, {2, 1, 1, 1});
      ok &= check_both<Cell, T, kCluster, 1, 0>({6, 9, 4, 50, false, true, true}, {2, 1, 2, 3});
      ok &= check_both<Cell, T, kGrid, 1, 2>({5, 7, 2, 40, false, true, true}, {1, 2, 3, 8});
      ok &= check_both<Cell, T, kGrid, 1, 2>({3, 4, 2, 24, true, true, false, true, false},
                                             {2, 1, 1, 7});
    }
    if (is_short() && sizeof(T) == 4) return ok;  // every tier and exchange
    if constexpr (!std::is_same_v<T, __nv_bfloat16>) {
      ok &= check<Cell, T, kBlock, 2, 1>({4, 11, 3, 32, true, true, true}, {2, 2, 1, 2});
      ok &= check_both<Cell, T, kCluster, 1, 1>({5, 2, 3, 61, true, false, true, false},
                                                {1, 2, 4, 4});
      ok &= check_both<Cell, T, kGrid, 1, 1>({4, 19, 3, 45, false, true, true}, {1, 3, 3, 6});
    }
    if constexpr (sizeof(T) == 4) {
      ok &= check_both<Cell, T, kCluster, 1, 1>({3, 8, 3, 64, false, true, false, true, false},
                                                {1, 1, 4, 5});
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
