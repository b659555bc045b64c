// The CPU kernels of layers that look at whole rows: sizes at the edges of vectors, panels and
// shares, every norm, zoneout and dropout, masks, directions, teams of one to four threads. On
// vectors of 16 bytes, where few units have several panels to share, and which compile fastest.
#pragma GCC optimize("O1")
#include "cpu/simd/baseline.h"

#include "rowwise_checks.h"

namespace fastcells {
namespace {

// Groups of rows, and threads that share the units of each.
constexpr int kTeams[][2] = {{1, 1}, {1, 2}, {2, 1}, {1, 3}, {3, 1}, {2, 2}, {1, 4}, {4, 1}};

constexpr Noise kNoises[] = {
    // seed (of more than 32 bits, too), dropout, zoneout of h and of c, training
    {},
    {1099511640121., 0.4, 0.3, 0.2, 1},
    {1099511640121., 0.4, 0.3, 0.2, 0},
    {5, 0, 0.5, 0, 1},
    {6, 0.25, 0, 0, 1},
    {7, 1, 0.25, 1, 1},  // all are dropped, c is kept whole
};

// What the largest element's error may be, over that element or 1. Errors grow from step to step of
// a normalised layer, where steps are few here: over 16 of them rounding the inputs to float moves
// d_input by 7e-6 of its largest element.
template <class T>
constexpr double kTolerance = sizeof(T) == 8   ? 4e-14
                              : sizeof(T) == 2 ? 2e-2
                                               : 1e-5;

template <class Cell, class T, class P>
class Checks {
 public:
  bool run() {
    worst_share = 0;
    bool ok = true;
    for (const std::int64_t H : {1, 5, 16, 17, 40}) {
      for (const std::int64_t B : {1, 3, 9}) {
        for (const Norm norm : {Norm::kNone, Norm::kParts, Norm::kGates}) {
          if (norm == Norm::kGates && !Cell::kAdditive) continue;
          const RowwiseCase c = draw_case(H, B, norm);
          const Way one = draw_way();
          Way other = draw_way();
          other.large_chunks = !one.large_chunks, other.recompute = !one.recompute;
          if (!Cell::kTwoProducts) ok = ok && check_case(c, {one, other});
          if (kHasSecond && norm == Norm::kNone) {
            ok = ok && check_case(case_of_second(H, B), {one, other});
          }
        }
      }
    }
    // More frames than a block of any product or sum over them.
    RowwiseCase longer{{7, 40, 19, 17, true, false, true}, Norm::kParts};
    if (HasOutputGate<Cell>) longer.norm_of_c = NormOfC::kGainAndBias;
    longer.noise = kNoises[1];
    if (Cell::kTwoProducts) longer = {{7, 40, 19, 17, true, false, true}};
    ok = ok && check_case(longer, {{2, 2, true, true, false}, {1, 3, true, false, true}});
    std::printf("%-9s %zu bytes: %s, the worst error is %.2f of what is allowed\n", Cell::kName,
                sizeof(T), ok ? "ok" : "FAILED", worst_share);
    return ok;
  }

 private:
  int draw(int below) { return int(generator_() % unsigned(below)); }
  static constexpr bool kHasSecond = HasOutputGate<Cell> || Cell::kTwoProducts;
  // Of a second product, which has neither norms nor noise beside it: a projection to fewer units,
  // once to more.
  static RowwiseCase case_of_second(std::int64_t H, std::int64_t B) {
    const std::int64_t steps = 1 + B % 6, I = H % 2 == 0 ? 5 : 35;
    RowwiseCase c{{steps, B, I, H, H % 4 < 2, B > 1, H % 3 == 1, B < 9, H != 16}};
    if (HasOutputGate<Cell>) c.P = H == 17 ? 37 : (H + 2) / 3;
    return c;
  }
  RowwiseCase draw_case(std::int64_t H, std::int64_t B, Norm norm) {
    const std::int64_t steps = 1 + draw(6), I = draw(2) == 0 ? 5 : 35;
    RowwiseCase c{
        {steps, B, I, H, draw(2) == 0, draw(2) == 0, draw(2) == 0, draw(3) > 0, draw(4) > 0}, norm};
    if (HasOutputGate<Cell>) c.norm_of_c = NormOfC(draw(5));
    c.noise = kNoises[draw(std::size(kNoises))];
    return c;
  }
  Way draw_way() {
    const auto& [groups, units] = kTeams[draw(std::size(kTeams))];
    return {groups, units, draw(2) == 0, draw(2) == 0, draw(2) == 0};
  }
  static bool check_case(const RowwiseCase& c, std::initializer_list<Way> ways) {
    const RowwiseProblem<Cell> p(c, rounded<T>, rounded<typename P::S>);
    const RowwiseResults want = RowwiseNaive<Cell>::run(p, rounded<T>);
    for (const Way& way : ways) {
      tell(c, way);
      RowwiseRun<Cell, T, P> run(p, want, way, kTolerance<T>);
      RowwiseRun<Cell, T, P> inference(p, want, way, kTolerance<T>);
      if (!run.check() || !inference.check_without_keeping()) return false;
    }
    return true;
  }
  static void tell(const RowwiseCase& c, const Way& way) {
    std::snprintf(current_check, sizeof current_check,
                  "%s, %zu bytes: T%ld B%ld I%ld H%ld%s%s%s, norm %d, of c %d, noise of seed %.0f"
                  "%s, %d groups x %d units%s%s",
                  Cell::kName, sizeof(T), long(c.T), long(c.B), long(c.I), long(c.H),
                  c.reverse ? " reverse" : "", c.lengths ? " lengths" : "",
                  c.resets ? " resets" : "", int(c.norm), int(c.norm_of_c), c.noise.seed,
                  c.noise.is_training != 0 ? " in training" : "", way.groups, way.units,
                  way.large_chunks ? " large chunks" : "", way.recompute ? " recompute" : "");
  }

  std::mt19937 generator_{16 * Cell::kGates + sizeof(T)};  // other cases of each
};

template <class Cell, class T, class P = WholePanels<T>>
bool check_cell() {
  return Checks<Cell, T, P>().run();
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  watch_guards();
  bool ok = check_cell<RNN<Tanh>, float>();
#ifndef FASTCELLS_ONE_CELL  // tests/project/mutation_check.py
  ok &= check_cell<PeepholeLSTM, float>();
  ok &= check_cell<LSTM, float>();
  ok &= check_cell<LSTM, double>();
  ok &= check_cell<LSTM, BFloat16Bits, NarrowPanels<BFloat16Bits>>();
  ok &= check_cell<GRU, float>();
  ok &= check_cell<GRUResetBefore, float>();
#endif
  return ok ? 0 : 1;
}
