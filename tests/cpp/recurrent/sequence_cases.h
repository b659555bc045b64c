// The cases of sequence_checks.h: sizes that miss every tile, masks, directions, grids of threads.
#pragma once
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
template <class T>
constexpr double kTolerance = sizeof(T) == 2 ? 2e-2 : 4e-6;

// The problem in the ways first, first + stride ..., as many as `count`.
template <class Cell, class T>
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
    Run<Cell, T, S> run(p, want, way, kTolerance<T>);
    Run<Cell, T, S> inference(p, want, way, kTolerance<T>);
    if (!run.check() || (k == 0 && !inference.check_without_keeping())) return false;
  }
  const bool is_step = c.T == 1 && !c.lengths && !c.resets;
  return !is_step || check_step<Cell, T, S>(p, want, kTolerance<T>);
}

template <class Cell, class T>
bool check_cell() {
  worst_share = 0;
  bool ok = true;
  int index = 0;
  for (const std::int64_t H : {1, 7, 33, 40}) {
    for (const std::int64_t B : {1, 3, 13, 20}) {
      for (const std::int64_t steps : {1, 6}) {
        for (int mask = 0; mask < 8; ++mask, ++index) {
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
          ok = ok && check_case<Cell, T>(c, index, steps == 1 ? 1 : 2);
        }
      }
    }
  }
  // Longer than a piece of a panel and a block of frames.
  ok = ok && check_case<Cell, T>({14, 20, 190, 180, true, true, true}, 1, 3);
  ok = ok && check_case<Cell, T>({14, 20, 3, 37, false, false, true}, 0, 2);
  std::printf("%-9s %zu bytes: %s, the worst error is %.2f of what is allowed\n", Cell::kName,
              sizeof(T), ok ? "ok" : "FAILED", worst_share);
  return ok;
}

// The program's exit status.
__attribute__((noinline)) int check_sequence_kernels() {
  watch_guards();
  std::printf("vectors of %d bytes\n", kVectorBytes);
  bool ok = check_cell<LSTM, float>();
  ok &= check_cell<GRU, float>();
  ok &= check_cell<RNN<Tanh>, float>();
  ok &= check_cell<LSTM, BFloat16Bits>();
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
