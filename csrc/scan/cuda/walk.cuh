// What the scan's kernels share: a thread a lane (a batch row and unit) and chunk of time. Threads
// side by side are units side by side; a thread loads several steps before it computes them, so
// that the memory's latency is waited for once for all.
#pragma once
#include "scan/cuda/launch.h"
#include "scan/cuda/numbers.cuh"

namespace fastcells::cuda {

constexpr int kScanThreads = 128;
// Steps that are loaded together: as many as the registers hold.
template <class N>
constexpr int kLoadedSteps = sizeof(typename N::A) <= 8 ? 8 : 4;

// The lane and the steps of a thread, in the order of processing.
struct ScanLane {
  std::int64_t lane, row, unit, chunk, begin, end;
  bool is_there;

  FC_HD ScanLane(const ScanArgs& a, const ScanChunks& chunks, std::int64_t block,
                 std::int64_t thread) {
    const std::int64_t lanes = a.B * a.H, blocks = (lanes + kScanThreads - 1) / kScanThreads;
    chunk = block / blocks, lane = block % blocks * kScanThreads + thread;
    is_there = lane < lanes;
    row = lane / a.H, unit = lane % a.H;
    begin = chunk * chunks.steps;
    end = begin + chunks.steps < a.T ? begin + chunks.steps : a.T;
  }
};

// A row's steps as one walk takes them.
struct RowWalk {
  const Rows& rows;
  std::int64_t row, T, length;
  bool is_down;  // t decreases

  FC_HD RowWalk(const Rows& r, std::int64_t b, bool down)
      : rows(r), row(b), T(r.T), length(r.length(b)), is_down(down) {}
  FC_HD std::int64_t step(std::int64_t position) const {
    return is_down ? T - 1 - position : position;
  }
  FC_HD bool exists(std::int64_t t) const { return t < length; }
  FC_HD bool is_first(std::int64_t t) const { return t == (is_down ? length - 1 : 0); }
  // No state comes into step t, which is not the row's first, from the step before it.
  FC_HD bool is_cut_before(std::int64_t t) const {
    const std::int64_t boundary = is_down ? t + 1 : t;
    return rows.resets && boundary > 0 && boundary < length && rows.resets[boundary * rows.B + row];
  }
};

// An operand's numbers of one lane.
template <class N>
struct LaneOperand {
  const typename N::T* data;
  std::int64_t step;
  FC_HD LaneOperand(const ScanOperand& x, const ScanLane& lane)
      : data(static_cast<const typename N::T*>(x.data) + lane.row * x.row + lane.unit * x.unit),
        step(x.step) {}
  FC_HD typename N::A at(std::int64_t t) const { return N::load(data + t * step); }
};
template <class N>
struct LaneResult {
  typename N::T* data;
  std::int64_t step;
  FC_HD LaneResult(const ScanResult& x, const ScanLane& lane)
      : data(static_cast<typename N::T*>(x.data) + (x.data ? lane.row * x.row + lane.unit : 0)),
        step(x.step) {}
  FC_HD void set(std::int64_t t, typename N::A x) const { N::store(data + t * step, x); }
};

// The state in front of a thread's chunk.
template <class N>
FC_HD typename N::A incoming_state(const ScanArgs& a, const ScanChunks& chunks,
                                   const ScanLane& lane) {
  if (lane.chunk == 0) return N::zero();
  return static_cast<const typename N::A*>(chunks.states)[(lane.chunk - 1) * a.B * a.H + lane.lane];
}
template <class N>
FC_HD void store_summary(const ScanArgs& a, const ScanChunks& chunks, const ScanLane& lane,
                         typename N::A state, typename N::A product, bool reaches) {
  const std::int64_t at = lane.chunk * a.B * a.H + lane.lane;
  static_cast<typename N::A*>(chunks.states)[at] = state;
  static_cast<typename N::A*>(chunks.products)[at] = product;
  chunks.reaches[at] = reaches;
}

// The states behind the chunks, from those that came of zero.
template <class N>
__global__ void __launch_bounds__(kScanThreads)
    scan_states_kernel(ScanChunks chunks, std::int64_t lanes) {
  using A = typename N::A;
  const std::int64_t lane = std::int64_t(blockIdx.x) * kScanThreads + threadIdx.x;
  if (lane >= lanes) return;
  A* const states = static_cast<A*>(chunks.states);
  const A* const products = static_cast<const A*>(chunks.products);
  A state = N::zero();
  constexpr int kAtOnce = kLoadedSteps<N>;
  for (std::int64_t chunk = 0; chunk + 1 < chunks.count; chunk += kAtOnce) {
    A own[kAtOnce], product[kAtOnce];
    bool reaches[kAtOnce];
    FC_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const std::int64_t at = (chunk + u) * lanes + lane;
      const bool is_there = chunk + u + 1 < chunks.count;
      own[u] = is_there ? states[at] : N::zero();
      product[u] = is_there ? products[at] : N::zero();
      reaches[u] = is_there && chunks.reaches[at];
    }
    FC_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (chunk + u + 1 >= chunks.count) break;
      state = reaches[u] ? N::multiply_add(product[u], state, own[u]) : own[u];
      states[(chunk + u) * lanes + lane] = state;
    }
  }
}

inline std::int64_t scan_blocks(const ScanArgs& a) {
  return (a.B * a.H + kScanThreads - 1) / kScanThreads;
}

}  // namespace fastcells::cuda
