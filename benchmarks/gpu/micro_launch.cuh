// What a launch costs: empty kernels one after the other, launched one by one or in a graph.
#pragma once
#include "micro_facts.cuh"
#include "micro_harness.cuh"

namespace fastcells::micro {

constexpr int kLaunches = 1000, kGraphKernels = 100;

// kGraphKernels launches of a shape.
class Graph {
 public:
  explicit Graph(const Config& config) {
    check(cudaStreamBeginCapture(card().stream, cudaStreamCaptureModeThreadLocal), "the capture");
    try {
      for (int i = 0; i < kGraphKernels; ++i) launch(empty, config);
    } catch (...) {  // the stream is to be of use again
      cudaStreamEndCapture(card().stream, &graph_);
      release();
      throw;
    }
    check(cudaStreamEndCapture(card().stream, &graph_), "the end of the capture");
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph_, 0);
    if (error != cudaSuccess) release();
    check(error, "cudaGraphInstantiate");
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { release(); }
  void run() const { check(cudaGraphLaunch(executable_, card().stream), "cudaGraphLaunch"); }

 private:
  void release() {
    if (executable_) cudaGraphExecDestroy(executable_);
    if (graph_) cudaGraphDestroy(graph_);
  }
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

inline void time_launches(Line& line, const Shape& shape, bool is_graph) {
  line.add("blocks", shape.blocks).add("threads", shape.threads).add("cluster", shape.cluster);
  line.add("shared_bytes", shape.shared);
  allow(empty, shape);
  const Config config(shape);
  launch(empty, config);  // what cannot be launched is said here, not in a capture
  wait_for_card();
  double ms = 0;
  if (is_graph) {
    const Graph graph(config);
    ms = median_ms([&](int) {
      for (int i = 0; i < kLaunches / kGraphKernels; ++i) graph.run();
    });
  } else {
    ms = median_ms([&](int) {
      for (int i = 0; i < kLaunches; ++i) launch(empty, config);
    });
  }
  line.value(ms * 1e3 / kLaunches, "us a kernel");
}

inline void add_launches(Suite& suite) {
  const std::pair<const char*, Shape> kinds[] = {
      {"small", {1, 32}},
      {"plain", {128, kThreads, 1, kWholeSm}},
      {"cooperative", {128, kThreads, 1, kWholeSm, true}},
      {"cluster_8", {64, kThreads, 8, kWholeSm}},
      {"cluster_16", {64, kThreads, 16, kWholeSm}},
  };
  for (const auto& [kind, shape] : kinds) {
    for (bool is_graph : {false, true}) {
      const std::string name = std::string("launch/") + (is_graph ? "graph/" : "stream/") + kind;
      suite.push_back(
          {name, [shape = shape, is_graph](Line& line) { time_launches(line, shape, is_graph); }});
    }
  }
}

}  // namespace fastcells::micro
