// What the tests of the CUDA sequence kernels share: buffers of storage, sizes of a launch, errors.
#pragma once
#include <optional>

#include "cases.h"

#include "recurrent/cells/dispatch.h"
#include "recurrent/cuda/plan.cpp"  // with the parts that plan() is made of
#include "recurrent/cuda/sequence_args.h"
#include "sequence_problem.h"

namespace fastcells {

using cuda::Exchange, cuda::Tier;

struct Launch {
  int unit_warps, parts, blocks;  // of a block; of a cluster, or of the grid
  unsigned seed;
  simt::Counters* counters = nullptr;  // the emulator's
};

// What the blocks of a grid exchange; of the right size, and zero.
class ExchangeBuffers {
 public:
  void resize(std::int64_t bytes, std::int64_t counters) {
    buffers_.resize(std::size_t(bytes) / sizeof(uint4) + kLine / sizeof(uint4));
    counters_.resize(std::size_t(counters));
  }
  // From a cache line on, as cudaMalloc gives memory.
  SequenceExchange get() {
    const auto address = reinterpret_cast<std::uintptr_t>(buffers_.data());
    const std::size_t to_line = (kLine - address % kLine) % kLine;
    return {buffers_.data() + to_line / sizeof(uint4), counters_.data()};
  }

 private:
  static constexpr std::size_t kLine = 128;
  std::vector<uint4> buffers_;
  std::vector<unsigned> counters_;
};

// The kernel on all rows of `args`, with the shared memory that its layout asks for.
template <class Traits, class Kernel, class Args>
void run_kernel(const Launch& launch, Kernel kernel, Args args) {
  const std::int64_t slices = (args.B + Traits::kRows - 1) / Traits::kRows;
  const auto shape = Traits::shape(launch.unit_warps, launch.parts, launch.blocks, slices);
  ExchangeBuffers exchange;
  if (Traits::kGrid) {
    const std::int64_t counters = shape.has_packets() ? 0 : slices * cuda::kCounterWords;
    exchange.resize(2 * slices * shape.exchange_bytes(), counters);
    args.directions[0].exchange = exchange.get();
  }
  const unsigned blocks = unsigned(Traits::kGrid ? launch.blocks : slices * launch.blocks);
  const unsigned cluster = Traits::kCluster ? unsigned(launch.blocks) : 1;
  simt::launch({blocks}, {unsigned(launch.unit_warps * cuda::kWarpLanes), unsigned(launch.parts)},
               std::size_t(cuda::SequenceShared::of(shape).end),
               {launch.seed, cluster, Traits::kGrid, launch.counters}, kernel, args);
}

template <class T>
double rounded(double x) {
  return double(float(T(float(x))));
}
inline double as_float(double x) { return double(float(x)); }

template <class T>
std::vector<T> stored(const Values& values) {
  std::vector<T> result;
  for (const double value : values) result.push_back(T(float(value)));
  return result;
}
// Not yet written: NaN.
template <class T>
std::vector<T> unwritten(std::int64_t count) {
  return std::vector<T>(std::size_t(count), T(NAN));
}
template <class T>
T* address(std::vector<T>& buffer) {
  return buffer.empty() ? nullptr : buffer.data();
}

// Largest difference, over 1 + the expected size; infinite where it is not a number.
template <class T>
double worst(const std::vector<T>& got, const Values& expected) {
  double error = got.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < expected.size() && i < got.size(); ++i) {
    const double difference =
        std::fabs(double(float(got[i])) - expected[i]) / (1 + std::fabs(expected[i]));
    if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
  }
  return error;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
const char* type_name() {
  return std::is_same_v<T, float>    ? "float32 "
         : std::is_same_v<T, __half> ? "float16 "
                                     : "bfloat16";
}

template <class Cell, class Traits>
std::string case_name(const Case& c, const Launch& launch) {
  constexpr const char* kTiers[] = {"block", "cluster", "grid"};
  constexpr const char* kExchanges[] = {"", " with packets", " with lines"};
  const std::string tier =
      std::string(kTiers[int(Traits::kTier)]) + kExchanges[int(Traits::kExchange)];
  char name[200];
  std::snprintf(name, sizeof name,
                "%-11s %s T%d B%d H%d%s%s%s, %s, %d x %d warps, %d blocks, %d cached", Cell::kName,
                type_name<typename Traits::T>(), int(c.T), int(c.B), int(c.H),
                c.reverse ? " reverse" : "", c.lengths ? " lengths" : "", c.resets ? " resets" : "",
                tier.c_str(), launch.unit_warps, launch.parts, launch.blocks, Traits::kCached);
  return name;
}

// The case by the usual and by the other of two exchanges, with the same bits: run(TypeTag<Traits>)
// is what a kernel gives.
template <class Cell, class Usual, class Other, class Run>
bool check_exchanges(const Case& c, const Launch& launch, double tolerance, const Run& run) {
  std::optional<decltype(run(TypeTag<Usual>{}))> usual;  // not where the program begins behind it
  bool ok = run_case(case_name<Cell, Usual>(c, launch), [&] {
    usual.emplace(run(TypeTag<Usual>{}));
    return end_case(usual->error(), tolerance);
  });
  ok &= run_case(case_name<Cell, Other>(c, launch), [&] {
    if (!usual) usual.emplace(run(TypeTag<Usual>{}));
    const auto other = run(TypeTag<Other>{});
    return end_case(other.error(), tolerance, other.is_equal(*usual));
  });
  return ok;
}

// ---- what a card takes beside the emulator's cases ----

// Facts of an H100 or H200: the widest tiers.
constexpr cuda::Device kCard{90, 227 * 1024, 16, 132};

template <Tier kTier_, Exchange kExchange_ = Exchange::kCounters>
struct Way {
  static constexpr Tier kTier = kTier_;
  static constexpr Exchange kExchange = kExchange_;
};
// f(way, launch) for every tier, every size of cluster and every exchange that holds the layer; as
// the plan would launch it.
template <class Cell, class F>
void each_launch(const Case& c, int storage_bytes, bool is_backward, const F& f) {
  const cuda::Problem p{Cell::kGates, Cell::kStates, false, false,      storage_bytes, 1,
                        c.T,          c.B,           c.H,   is_backward};
  const auto offer = [&](auto way, bool fits, const cuda::Plan& plan) {
    if (fits) f(way, Launch{plan.unit_warps, plan.parts, plan.blocks, 1});
  };
  cuda::Plan plan;
  offer(Way<Tier::kBlock>{}, cuda::try_blocks(p, kCard, Tier::kBlock, 1, plan), plan);
  for (int blocks = 2; blocks <= kCard.cluster_blocks; blocks *= 2) {
    offer(Way<Tier::kCluster>{}, cuda::try_blocks(p, kCard, Tier::kCluster, blocks, plan), plan);
    offer(Way<Tier::kCluster, Exchange::kLines>{},
          cuda::try_blocks(p, kCard, Tier::kCluster, blocks, plan, Exchange::kLines), plan);
  }
  offer(Way<Tier::kGrid>{}, cuda::try_grid(p, kCard, plan), plan);
  offer(Way<Tier::kGrid, Exchange::kPackets>{}, cuda::try_grid(p, kCard, plan, Exchange::kPackets),
        plan);
}

// Layers that fill tiers, long ones, many rows: check(case) for each.
template <class Cell, class T, class Check>
bool check_large(const Check& check) {
  bool ok = true;
  ok &= check(Case{512, 3, 2, 64, false, true, true});
  ok &= check(Case{9, 128, 2, 64, true});
  ok &= check(Case{7, 17, 3, 128, true, true, true});
  ok &= check(Case{60, 9, 2, 256, false, false, true});
  // The others differ by what a step does with its sums, which these three have shown.
  if constexpr (!std::is_same_v<Cell, LSTM> && !std::is_same_v<T, __half>) return ok;
  ok &= check(Case{5, 20, 2, 512, false, true, false});
  ok &= check(Case{4, 16, 2, 768});
  ok &= check(Case{2, 20, 2, 1024, true});
  if constexpr (std::is_same_v<Cell, LSTM>) ok &= check(Case{2, 9, 2, 2048});
  return ok;
}

// Whether a cell is run with a type of storage: on a card always. Under the emulator cells that
// differ by their gates' arithmetic alone share the types: what a type changes is loads, stores and
// products, and these know no cell.
template <class Cell, class T>
constexpr bool is_run_with() {
#if !defined(__CUDACC__)
  if (std::is_same_v<Cell, GRU>) return !std::is_same_v<T, __half>;
  if (std::is_same_v<Cell, GRUArticle>) return std::is_same_v<T, __half>;
  if (std::is_same_v<Cell, RNN<Tanh>>) return !std::is_same_v<T, __nv_bfloat16>;
  if (std::is_same_v<Cell, RNN<ReLU>>) return std::is_same_v<T, __nv_bfloat16>;
#endif
  return true;
}

// check.operator()<Cell, T>() for every cell of one product and its types of storage; of a short
// list the cell with the most gates and states, in both widths of storage.
template <class Check>
bool check_all(const Check& check) {
  bool ok = true;
  for_each_cell([&](auto cell, CellKind) {
    using Cell = typename decltype(cell)::type;
    if constexpr (!Cell::kTwoProducts) {
      if (is_short() && !std::is_same_v<Cell, LSTM>) return;
      const auto run = [&](auto storage) {
        using T = decltype(storage);
        if constexpr (is_run_with<Cell, T>()) ok &= check.template operator()<Cell, T>();
      };
      run(float{}), run(__half{});
      if (!is_short()) run(__nv_bfloat16{});
    }
  });
  return ok;
}

}  // namespace fastcells
