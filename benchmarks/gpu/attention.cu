// Times the attention kernels by CUDA events, without torch: microseconds of calls, forward and
// back, and of each of their kernels, for every dtype, width and kind of mask. A line of JSON for
// each call.
//
//   us         of a call: a graph of some of them, over their number; the median of kRounds
//   kernels    of each kernel by itself, likewise; blocks
//   floor_us   the least that the call can take (attention_calls.cuh), floor_by what of
//   share      floor_us / us
//
// Arguments: how many seconds it may take. FASTCELLS_FIRST_CASE: where to begin, as the tests have
// it (tests/cpp/cases.h). A kernel that hangs is named and ends the program.
#include "attention_calls.cuh"

namespace fastcells {
namespace {

constexpr double kGraphUs = 300;  // of work in a graph, or more: launches do not count then
constexpr int kMostRepeats = 64;

// The most telling first: layers as they are trained, then a step of a decoder, wider heads, long
// sequences, and what is so small that launches decide.
constexpr CallShape kShapes[] = {
    {false, 8, 8, 512, 512, 64},     {true, 8, 1, 512, 512, 256},  {false, 16, 8, 1, 4096, 64},
    {true, 16, 1, 1, 4096, 256},     {false, 8, 8, 512, 512, 128}, {false, 2, 16, 2048, 2048, 64},
    {true, 64, 1, 8, 200, 128},      {false, 4, 8, 512, 512, 256}, {true, 2, 1, 2048, 2048, 64},
    {false, 2, 16, 2048, 2048, 128}, {false, 1, 4, 64, 64, 64},    {false, 16, 8, 1, 4096, 128},
};
constexpr Extra kExtras[] = {Extra::kNothing, Extra::kCausal,     Extra::kMask,
                             Extra::kBias,    Extra::kSharedBias, Extra::kWeights};

// A stream, a graph of it, and its time.
class Graphs {
 public:
  Graphs() : stream_(make_stream()), events_(stream_) {}
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;
  ~Graphs() { cudaStreamDestroy(stream_); }

  // Microseconds of work(stream), which launches kernels.
  template <class Work>
  double us(const std::string& name, const Work& work) const {
    const auto once = [&] {
      events_.start();
      work(stream_);
      return events_.stop(name);
    };
    once();
    const int repeats = std::clamp(int(kGraphUs / once()) + 1, 1, kMostRepeats);
    const cudaGraphExec_t graph = capture(work, repeats);
    const double all = median_us([&] {
      events_.start();
      card::check(cudaGraphLaunch(graph, stream_), "a graph");
      return events_.stop(name);
    });
    card::check(cudaGraphExecDestroy(graph), "a graph");
    return all / repeats;
  }

 private:
  static cudaStream_t make_stream() {
    cudaStream_t stream;
    card::check(cudaStreamCreate(&stream), "a stream");
    return stream;
  }
  template <class Work>
  cudaGraphExec_t capture(const Work& work, int repeats) const {
    cudaGraph_t graph;
    cudaGraphExec_t made;
    card::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a capture");
    for (int i = 0; i < repeats; ++i) work(stream_);
    card::check(cudaStreamEndCapture(stream_, &graph), "a capture");
    card::check(cudaGraphInstantiate(&made, graph, 0), "a graph");
    card::check(cudaGraphDestroy(graph), "a graph");
    return made;
  }

  const cudaStream_t stream_;
  const Events events_;
};

int multiprocessors() {
  int count = 0;
  card::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0), "an attribute");
  return count;
}

template <class T>
std::string facts_of(const Call<T>& call, bool is_backward) {
  const CallShape& s = call.s;
  char text[300];
  std::snprintf(text, sizeof text,
                "\"call\": \"%s\", \"dtype\": \"%s\", \"way\": \"%s\", \"with\": \"%s\", "
                "\"B\": %d, \"N\": %d, \"Tq\": %d, \"Tk\": %d, \"E\": %d",
                s.is_additive ? "additive" : "dot", dtype_name<T>(),
                is_backward ? "backward" : "forward", extra_name(call.extra), int(s.B), int(s.N),
                int(s.Tq), int(s.Tk), int(s.E));
  return text;
}

template <class T>
bool time_way(const Call<T>& call, bool is_backward, const Graphs& graphs) {
  const Launches launches = is_backward ? call.backward() : call.forward();
  const std::string name = is_backward ? "attention backward" : "attention forward";
  const double us = graphs.us(name, [&](cudaStream_t stream) {
    for (const Launch& launch : launches) launch.run(stream);
  });
  std::string kernels;
  for (const Launch& launch : launches) {
    char numbers[100];
    std::snprintf(numbers, sizeof numbers, ", \"blocks\": %lld, \"us\": %.3f}",
                  static_cast<long long>(launch.blocks), graphs.us(launch.kernel, launch.run));
    kernels += (kernels.empty() ? "{\"kernel\": " : ", {\"kernel\": ") +
               card::quoted(launch.kernel) + numbers;
  }
  const Floor floor = floor_of(call, is_backward, multiprocessors());
  say("{%s, \"us\": %.3f, \"floor_us\": %.3f, \"floor_by\": \"%s\", \"share\": %.4f, "
      "\"kernels\": [%s]}\n",
      facts_of(call, is_backward).c_str(), us, floor.us, floor.is_of_bytes ? "bytes" : "operations",
      floor.us / us, kernels.c_str());
  return true;
}

template <class T>
void time_call(const CallShape& shape, Extra extra, const Graphs& graphs) {
  char name[200];
  std::snprintf(name, sizeof name, "%s %s %s B%d N%d Tq%d Tk%d E%d",
                shape.is_additive ? "additive" : "dot", dtype_name<T>(), extra_name(extra),
                int(shape.B), int(shape.N), int(shape.Tq), int(shape.Tk), int(shape.E));
  run_case(name, [&] {
    const Call<T> call(shape, extra);
    return time_way(call, false, graphs) && time_way(call, true, graphs);
  });
}

template <class T>
void time_dtype(const CallShape& shape, const Graphs& graphs, const Clock& clock) {
  for (const Extra extra : kExtras) {
    if (extra == Extra::kCausal && (shape.is_additive || shape.Tq == 1)) continue;
    if (!clock.is_over()) time_call<T>(shape, extra, graphs);
  }
}

}  // namespace
}  // namespace fastcells

int main(int count, char** arguments) {
  using namespace fastcells;
  const Clock clock(count > 1 ? std::atof(arguments[1]) : 60);
  warm_up();
  const Graphs graphs;
  for (const CallShape& shape : kShapes) {
    time_dtype<__half>(shape, graphs, clock);
    time_dtype<float>(shape, graphs, clock);
    time_dtype<__nv_bfloat16>(shape, graphs, clock);
  }
  say("{\"done\": %s}\n", clock.is_over() ? "false" : "true");
  return 0;
}
