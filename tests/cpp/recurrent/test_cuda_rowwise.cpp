// The CUDA kernels of layers that look at whole rows, under the emulator or on a card, against
// plain loops in double: every cell and storage, each norm, zoneout and dropout in training and
// evaluation, directions, rows without steps, resets; units that fill no warp, and more than a
// block's threads.
#include "cases.h"

#include "rowwise_card_run.h"

namespace fastcells {
namespace {

constexpr Noise kNoises[] = {
    // seed, dropout, zoneout of h and of c, training
    {},
    {1099511640121., 0.4, 0.3, 0.2, 1},
    {1099511640121., 0.4, 0.3, 0.2, 0},
    {7, 1, 0.25, 1, 1},  // all are dropped, c is kept whole
};

// Over 1 + the number's size. What a step hands to the products is rounded to storage, which the
// loops do not do, and divisions by the deviation of few values make it larger; a card's
// exponentials have other last bits. Three times the most that the emulator shows.
template <class S>
constexpr double kBound = sizeof(S) == 8              ? 1e-12
                          : sizeof(S) == 4            ? 5e-5
                          : std::is_same_v<S, __half> ? 1e-2
                                                      : 9e-2;

template <class Cell, class S, class A>
class Checks {
 public:
  explicit Checks(const char* storage) : storage_(storage) {}

  bool run() {
    bool ok = true;
    const bool is_brief = is_short() || sizeof(S) == 2;
    for (const Norm norm : {Norm::kParts, Norm::kGates, Norm::kNone}) {
      if (norm == Norm::kGates && !Cell::kAdditive) continue;
      for (int of_c = 0; of_c < (kHasOutputGate<Cell> ? 5 : 1); of_c += is_brief ? 2 : 1) {
        ok &= check(norm, NormOfC(of_c), {4, 3, 2, 35});
        if (is_short()) return ok;
      }
      if (is_brief) continue;
      for (int k = 0; k < 3; ++k) ok &= check(norm, NormOfC::kNone, {3, 2, 2, 7});
    }
    if (!std::is_same_v<Cell, LSTM> || is_brief) return ok;
    return ok & check(Norm::kParts, NormOfC::kGain, {2, 1, 1, 300});
  }

 private:
  // One of the ways of noise, direction, lengths and resets after the other.
  bool check(Norm norm, NormOfC of_c, Case sizes) {
    RowwiseCase c{sizes, norm, of_c, kNoises[(count_ + 1) % 4]};
    c.reverse = count_ / 2 % 2 == 1, c.lengths = count_ % 3 != 2, c.resets = count_ % 5 != 3;
    c.bias = count_ % 4 != 2, c.states = count_ % 5 != 4;
    ++count_;
    const std::string name = std::string(Cell::kName) + " " + storage_ + ", norm " +
                             std::to_string(int(norm)) + ", of c " + std::to_string(int(of_c)) +
                             ", H=" + std::to_string(c.H) + ", case " + std::to_string(count_);
    return run_case(name, [&] {
      const RowwiseProblem<Cell> p(c, rounded<S>, rounded<A>);
      const RowwiseResults want = RowwiseNaive<Cell>::run(p, rounded<S>);
      using Run = RowwiseRun<Cell, Types<S, S, A>>;
      Run once(p, 1);
      const double worst = once.worst(want);
      if (count_ > 1) return end_case(worst, kBound<S>);
      Run again(p, 2);  // in another order
      return end_case(worst, kBound<S>, again.worst(want) == worst && once.has_same_bits(again));
    });
  }

  const char* storage_;
  int count_ = 0;
};

template <class Cell>
bool check_cell() {
  bool ok = Checks<Cell, float, float>("float32").run();
  ok &= Checks<Cell, double, double>("float64").run();
  ok &= Checks<Cell, __half, float>("float16").run();
  return ok & Checks<Cell, __nv_bfloat16, float>("bfloat16").run();
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  bool ok = check_cell<LSTM>() & check_cell<PeepholeLSTM>() & check_cell<GRU>();
  ok &= check_cell<GRUArticle>() & check_cell<RNN<Tanh>>() & check_cell<RNN<ReLU>>();
  return ok ? 0 : 1;
}
