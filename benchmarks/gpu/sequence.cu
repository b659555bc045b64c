// Times the sequence kernels by CUDA events, without torch: microseconds a step, for every cell,
// dtype, size, way and tier that holds it. A line of JSON for each.
//
//   us_step    slope between kLong and kShort steps, medians of kRounds launches of each
//   us_start   what is left of the short ones: the launch, the weights on their way, the end
//   plan       whether the plan takes this tier
//   exchange   of a grid by counters or by packets, of a cluster in rows or in lines; both are
//   timed
//
// Arguments: how many seconds it may take. FASTCELLS_FIRST_CASE: where to begin, as the tests have
// it (tests/cpp/cases.h). A kernel that hangs is named and ends the program.
#include "timing.cuh"

#include "recurrent/cuda/plan.cpp"  // with the parts that plan() is made of
#include "recurrent/cuda/sequence.cuh"

namespace fastcells {
namespace {

constexpr std::int64_t kShort = 64, kLong = 320;

// Everything that a layer of one direction reads and writes.
template <class Cell, class T>
struct Layer {
  static constexpr std::int64_t G = Cell::kGates, S = Cell::kSaved;

  Layer(std::int64_t rows, std::int64_t units)
      : B(rows),
        H(units),
        weight(G * H * H, 1 / std::sqrt(float(H))),
        x_gates(kLong * B * G * H),
        cells(kLong * B * H),
        d_h_0(B * H),
        d_c_0(B * H),
        bias(G * H),
        state(B * H),
        last(2 * B * H),
        output(kLong * B * H),
        saved(kLong * B * S * H, 0.5f),
        gates(2 * kLong * B * G * H) {}

  SequenceForwardArgs forward(std::int64_t steps, SequenceExchange exchange) const {
    SequenceForwardArgs a{};
    a.T = steps, a.B = B, a.H = H;
    a.output_stride = a.cells_stride = H, a.saved_stride = S * H;
    SequenceDirection& d = a.directions[0];
    d.x_gates = x_gates.get(), d.weight_hh = weight.get();
    d.bias_ih = d.bias_hh = bias.get(), d.h_0 = d.c_0 = state.get();
    d.output = output.get(), d.h_n = last.get(), d.c_n = last.get() + B * H;
    d.cells = cells.get(), d.saved = saved.get(), d.exchange = exchange;
    return a;
  }
  SequenceBackwardArgs backward(std::int64_t steps, SequenceExchange exchange) const {
    SequenceBackwardArgs a{};
    a.T = steps, a.B = B, a.H = H;
    a.output_stride = a.cells_stride = H, a.saved_stride = S * H;
    SequenceBackwardDirection& d = a.directions[0];
    d.weight_hh_t = weight.get(), d.saved = saved.get(), d.output = output.get();
    d.cells = cells.get(), d.h_0 = d.c_0 = d.d_h_n = d.d_c_n = state.get();
    d.d_output = output.get(), d.dx_gates = gates.get();
    d.dg_gates = Cell::kAdditive ? nullptr : gates.get() + kLong * B * G * H;
    d.d_h_0 = d_h_0.get(), d.d_c_0 = d_c_0.get(), d.exchange = exchange;
    return a;
  }

  std::int64_t B, H;
  Memory<T> weight;
  Memory<float> x_gates, cells, d_h_0, d_c_0, bias;
  Memory<T> state, last, output, saved, gates;
};

// One kernel in one shape.
template <class Cell, class T>
class Timing {
 public:
  Timing(const Layer<Cell, T>& layer, const cuda::Plan& plan, bool is_backward)
      : layer_(layer),
        plan_(plan),
        is_backward_(is_backward),
        exchange_bytes_(plan.exchange_bytes + 4 * plan.counter_words),
        exchange_(exchange_bytes_ / 4 + 1) {}

  double median_us(std::int64_t steps) const {
    return fastcells::median_us([&] { return run(steps); });
  }

 private:
  double run(std::int64_t steps) const {
    char* const bytes = reinterpret_cast<char*>(exchange_.get());
    const SequenceExchange exchange{bytes,
                                    reinterpret_cast<unsigned*>(bytes + plan_.exchange_bytes)};
    card::check(cudaMemsetAsync(bytes, 0, std::size_t(exchange_bytes_)), "zero counters");
    events_.start();
    const int error = is_backward_
                          ? launch_sequence_backward<Cell>(
                                kStorage<T>, plan_, 1, layer_.backward(steps, exchange), nullptr)
                          : launch_sequence_forward<Cell>(kStorage<T>, plan_, 1,
                                                          layer_.forward(steps, exchange), nullptr);
    card::check(cudaError_t(error), "a launch");
    return events_.stop(is_backward_ ? "sequence_backward_kernel" : "sequence_forward_kernel");
  }

  const Layer<Cell, T>& layer_;
  const cuda::Plan plan_;
  const bool is_backward_;
  const std::int64_t exchange_bytes_;
  const Memory<float> exchange_;
  const Events events_;
};

const char* tier_name(Tier tier) {
  constexpr const char* kNames[] = {"block", "cluster", "grid"};
  return kNames[int(tier)];
}
const char* exchange_name(const cuda::Plan& plan) {
  const bool is_usual = plan.exchange == Exchange::kCounters;
  if (plan.tier == Tier::kCluster) return is_usual ? "rows" : "lines";
  if (plan.tier == Tier::kGrid) return is_usual ? "counters" : "packets";
  return "";
}

template <class Cell, class T>
void time_plan(const Layer<Cell, T>& layer, const cuda::Plan& plan, bool is_backward,
               bool is_taken) {
  char name[200];
  std::snprintf(name, sizeof name, "%s %s %s B%d H%d %s %d %s", Cell::kName, dtype_name<T>(),
                is_backward ? "backward" : "forward", int(layer.B), int(layer.H),
                tier_name(plan.tier), plan.blocks, exchange_name(plan));
  run_case(name, [&] {
    Timing<Cell, T> timing(layer, plan, is_backward);
    const double few = timing.median_us(kShort), many = timing.median_us(kLong);
    const double step = (many - few) / double(kLong - kShort);
    std::printf(
        "{\"cell\": \"%s\", \"dtype\": \"%s\", \"way\": \"%s\", \"B\": %d, \"H\": %d, "
        "\"tier\": \"%s\", \"exchange\": \"%s\", \"blocks\": %d, \"unit_warps\": %d, \"parts\": "
        "%d, \"slices\": %d, "
        "\"shared_kib\": %d, \"us_step\": %.4f, \"us_start\": %.2f, \"plan\": %s}\n",
        Cell::kName, dtype_name<T>(), is_backward ? "backward" : "forward", int(layer.B),
        int(layer.H), tier_name(plan.tier), exchange_name(plan), plan.blocks, plan.unit_warps,
        plan.parts, int(plan.slices), int(plan.shared_bytes / 1024), step,
        few - double(kShort) * step, is_taken ? "true" : "false");
    std::fflush(stdout);
    return true;
  });
}

template <class Cell, class T>
void time_layer(std::int64_t rows, std::int64_t units, bool is_backward, const Clock& clock) {
  const Layer<Cell, T> layer(rows, units);
  const cuda::Device card{90, 227 * 1024, 16, 132};
  const cuda::Problem p{Cell::kGates, Cell::kStates, false, false,      int(sizeof(T)), 1,
                        kLong,        rows,          units, is_backward};
  const cuda::Plan taken = cuda::plan(p, card);
  const auto offer = [&](bool fits, const cuda::Plan& plan) {
    const bool is_taken =
        plan.tier == taken.tier && plan.blocks == taken.blocks && plan.exchange == taken.exchange;
    if (fits && !clock.is_over()) time_plan<Cell, T>(layer, plan, is_backward, is_taken);
  };
  cuda::Plan plan;
  offer(cuda::try_blocks(p, card, Tier::kBlock, 1, plan), plan);
  for (int blocks = 2; blocks <= card.cluster_blocks; blocks *= 2) {
    for (const Exchange exchange : {Exchange::kCounters, Exchange::kLines}) {
      offer(cuda::try_blocks(p, card, Tier::kCluster, blocks, plan, exchange), plan);
    }
  }
  offer(cuda::try_grid(p, card, plan), plan);
  offer(cuda::try_grid(p, card, plan, Exchange::kPackets), plan);
}

template <class Cell, class T>
void time_dtype(const Clock& clock) {
  for (const std::int64_t units : {512, 256, 1024, 128, 768, 64, 2048}) {
    for (const std::int64_t rows : {16, 64, 1, 128}) {
      for (const bool is_backward : {false, true}) {
        if (!clock.is_over()) time_layer<Cell, T>(rows, units, is_backward, clock);
      }
    }
  }
}

}  // namespace
}  // namespace fastcells

int main(int count, char** arguments) {
  using namespace fastcells;
  const Clock clock(count > 1 ? std::atof(arguments[1]) : 120);
  warm_up();
  time_dtype<LSTM, __half>(clock);
  time_dtype<GRU, __half>(clock);
  time_dtype<LSTM, float>(clock);
  time_dtype<LSTM, __nv_bfloat16>(clock);
  time_dtype<GRU, float>(clock);
  time_dtype<RNN<Tanh>, __half>(clock);
  std::printf("{\"done\": %s}\n", clock.is_over() ? "false" : "true");
  return 0;
}
