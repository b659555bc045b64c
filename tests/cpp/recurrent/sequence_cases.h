// The cases of sequence_checks.h: sizes that miss every tile, masks, directions, grids of threads.
#pragma once
#include <bit>

#include "sequence_checks.h"

namespace fastcells {
namespace {

constexpr Way kWays[] = {
    // groups, units, large chunks, recompute, add to d_input
    {1, 1, true, false, false}, {1, 3, false, true, false},  {2, 1, false, false, true},
    {3, 2, true, true, false},  {2, 3, false, false, false}, {1, 1, false, true, true},
    {3, 1, false, true, false}, {1, 2, true, false, true},
};
constexpr int kWayCount = sizeof kWays / sizeof kWays[0];

// What the largest element's error may be, over that element or 1.
// Pairs round the gradients of the gates to bfloat16 in front of the products, too.
template <class T, class P>
constexpr double kTolerance = std::is_same_v<typename P::Row, BFloat16Pair> ? 4e-2
                              : sizeof(T) == 2                              ? 2e-2
                                                                            : 4e-6;

// The problem in the ways first, first + stride ..., as many as `count`.
template <class Cell, class T, class P>
bool check_case(const Case& c, int first, int count) {
  using S = float;
  const Problem<Cell> p(c, rounded<T>, rounded<S>);
  const Results want = Naive<Cell>::run(p, rounded<T>);
  for (int k = 0; k < count; ++k) {
    const Way& way = kWays[(first + 3 * k) % kWayCount];
    std::snprintf(current_check, sizeof current_check,
                  "%s, %zu bytes: T%ld B%ld I%ld H%ld%s%s%s, %d groups x %d units%s%s", Cell::kName,
                  sizeof(T), long(c.T), long(c.B), long(c.I), long(c.H),
                  c.reverse ? " reverse" : "", c.lengths ? " lengths" : "",
                  c.resets ? " resets" : "", way.groups, way.units,
                  way.large_chunks ? " large chunks" : "", way.recompute ? " recompute" : "");
    Run<Cell, T, P> run(p, want, way, kTolerance<T, P>);
    Run<Cell, T, P> inference(p, want, way, kTolerance<T, P>);
    if (!run.check() || (k == 0 && !inference.check_without_keeping())) return false;
  }
  const bool is_step = c.T == 1 && !c.lengths && !c.resets;
  return !is_step || check_step<Cell, T, S>(p, want, kTolerance<T, P>);
}

// int8: the weights are what int8 can hold; inference alone.
template <class Cell, class P>
bool check_int8(const Case& c) {
  Problem<Cell> p(c, rounded<float>, rounded<float>);
  for (auto [weight, columns] : {std::pair{&p.w_ih, c.I}, {&p.w_hh, c.H}}) {
    for (std::int64_t r = 0; r < Cell::kGates * c.H; ++r) {
      const double unit = row_scale(*weight, r, columns);
      for (std::int64_t k = 0; k < columns; ++k) {
        double& w = (*weight)[r * columns + k];
        w = unit * std::round(w / unit);
      }
    }
  }
  const Results want = Naive<Cell>::run(p, rounded<float>);
  bool ok = true;
  for (int k = 0; k < kWayCount; k += 2) {
    std::snprintf(current_check, sizeof current_check, "%s, int8: T%ld B%ld I%ld H%ld", Cell::kName,
                  long(c.T), long(c.B), long(c.I), long(c.H));
    // A byte stands for 6 / 255 of a normal row: an error of 0.007 an element, which the sum over a
    // row of weights of 1 / sqrt(I) keeps, and four times that in the worst of thousands.
    Run<Cell, float, P> run(p, want, kWays[k], 4e-2);
    ok = ok && run.check_without_keeping();
  }
  return ok;
}
template <class Cell, class P = QuadPanels>
bool check_int8() {
  worst_share = 0;
  bool ok = true;
  for (const std::int64_t H : {1, 7, 33, 40}) {
    for (const std::int64_t B : {1, 13}) {
      ok = ok && check_int8<Cell, P>({6, B, H % 2 ? 3 : 8, H, B > 1, B > 1, H == 33, true, H != 7});
    }
  }
  ok = ok && check_int8<Cell, P>({9, 20, 190, 180, false, true, true, true, true});
  std::printf("%-9s int8: %s, the worst error is %.2f of what is allowed\n", Cell::kName,
              ok ? "ok" : "FAILED", worst_share);
  return ok;
}

// Of the grid each case, or each so many-th: what the masks do is the same for every cell and way
// of keeping weights.
template <class Cell, class T, class P>
bool check_cell(int each = 3) {
  worst_share = 0;
  bool ok = true;
  int index = 0, pair = 0, taken = 0;
  for (const std::int64_t H : {1, 7, 33, 40}) {
    ++pair;
    for (const std::int64_t B : {1, 3, 13, 20}) {
      ++pair;
      for (const std::int64_t steps : {1, 6}) {
        for (int mask = 0; mask < 8; ++mask, ++index) {
          // Every mask with every H, with every B and with every number of steps.
          if ((std::popcount(unsigned(mask)) + pair) % 2 || taken++ % each) continue;
          const std::int64_t I = (index + mask) % 2 ? 1 : 5;
          const Case c{steps,
                       B,
                       I,
                       H,
                       (mask & 1) != 0,
                       (mask & 2) != 0,
                       (mask & 4) != 0,
                       index % 3 != 0,
                       index % 5 != 0};
          ok = ok && check_case<Cell, T, P>(c, index, steps == 1 ? 1 : 2);
        }
      }
    }
  }
  // Longer than a piece of a panel and a block of frames.
  ok = ok && check_case<Cell, T, P>({14, 20, 190, 180, true, true, true}, 1, 3);
  ok = ok && check_case<Cell, T, P>({14, 20, 3, 37, false, false, true}, 0, 2);
  std::printf("%-9s %zu bytes: %s, the worst error is %.2f of what is allowed\n", Cell::kName,
              sizeof(T), ok ? "ok" : "FAILED", worst_share);
  return ok;
}

// Each way of keeping weights, with one cell. The program's exit status. Templates, so that a
// program of other cases does not compile them.
template <class = void>
__attribute__((noinline)) int check_ways_of_weights() {
  watch_guards();
  std::printf("vectors of %d bytes\n", kVectorBytes);
  bool ok = check_cell<LSTM, float, WholePanels<float>>(1);
  ok &= check_cell<LSTM, BFloat16Bits, NarrowPanels<BFloat16Bits>>();
  ok &= check_cell<GRU, BFloat16Bits, PairPanels>();
  ok &= check_cell<RNN<Tanh>, HalfBits, NarrowPanels<HalfBits>>();
  ok &= check_int8<LSTM>();
  return ok ? 0 : 1;
}
// And the other cells.
template <class = void>
__attribute__((noinline)) int check_sequence_kernels() {
  bool ok = check_ways_of_weights() == 0;
  ok &= check_cell<GRU, float, WholePanels<float>>();
  ok &= check_cell<RNN<Tanh>, float, WholePanels<float>>();
  ok &= check_int8<GRU>();
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
