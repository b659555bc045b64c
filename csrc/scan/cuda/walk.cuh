// What the scan's kernels share: a thread a lane (a batch row and unit) and chunk of time. Threads
// side by side are units side by side; a thread loads several steps before it computes them, so
// that the memory's latency is waited for once for all.
#pragma once
#include "scan/cuda/launch.h"
#include "scan/cuda/numbers.cuh"

namespace fastcells::cuda {

constexpr int kScanThreads = 128;
// Of a multiprocessor, at least: where ptxas may hope for more it spills a register.
constexpr int kLeastStateBlocks = 1;
// Steps that are loaded together: as many as the registers hold.
template <class N>
constexpr int kLoadedSteps = sizeof(typename N::A) <= 8 ? 8 : 4;

// The lane and the steps of a thread, in the order of processing. Lanes lie side by side, then
// chunks: a block is full however few lanes there are.
struct ScanLane {
  std::int64_t lanes, lane, row, unit, chunk, begin, end;
  bool is_there;

  // Of the first `chunk_count` chunks.
  FC_HD ScanLane(const ScanArgs& a, const ScanPlan& plan, std::int64_t chunk_count,
                 std::int64_t thread)
      : lanes(a.B * a.H) {
    chunk = thread / lanes, lane = thread % lanes;
    is_there = chunk < chunk_count;
    row = lane / a.H, unit = lane % a.H;
    begin = chunk * plan.steps;
    end = begin + plan.steps < a.T ? begin + plan.steps : a.T;
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

// The lane of this thread, of a kernel that writes or sums up. A lane that must be walked whole is
// the first chunk's; the others then have no steps.
FC_DEVICE ScanLane scan_lane(const ScanArgs& a, const ScanChunks& chunks, bool writes) {
  const std::int64_t count = writes ? chunks.plan.chunks : chunks.plan.chunks - 1;
  ScanLane lane(a, chunks.plan, count, std::int64_t(blockIdx.x) * kScanThreads + threadIdx.x);
  if (writes && count > 1 && lane.is_there && chunks.is_whole[lane.lane]) {
    if (lane.chunk == 0) lane.end = a.T;
    if (lane.chunk > 0) lane.begin = lane.end = 0;
  }
  return lane;
}

// The state in front of a thread's chunk.
template <class N>
FC_HD typename N::A incoming_state(const ScanChunks& chunks, const ScanLane& lane) {
  if (lane.chunk == 0) return N::zero();
  return static_cast<const typename N::A*>(
      chunks.states)[(lane.chunk - 1) * lane.lanes + lane.lane];
}

// What some chunks make of the state x in front of them: product x + state, or state alone.
template <class N>
struct ScanSummary {
  using A = typename N::A;
  A state, product;
  bool reaches;

  FC_HD static ScanSummary nothing() { return {N::zero(), N::one(), true}; }
  FC_HD static ScanSummary load(const ScanChunks& chunks, std::int64_t at) {
    return {static_cast<const A*>(chunks.states)[at], static_cast<const A*>(chunks.products)[at],
            chunks.reaches[at]};
  }
  FC_HD void store(const ScanChunks& chunks, const ScanLane& lane) const {
    const std::int64_t at = lane.chunk * lane.lanes + lane.lane;
    static_cast<A*>(chunks.states)[at] = state;
    static_cast<A*>(chunks.products)[at] = reaches ? product : N::zero();
    chunks.reaches[at] = reaches;
  }
  // Of these chunks and then of others.
  FC_HD ScanSummary then(const ScanSummary& x) const {
    if (!x.reaches) return x;
    return {N::multiply_add(x.product, state, x.state), N::multiply(x.product, product), reaches};
  }
  FC_HD bool is_finite() const { return N::is_finite(state) && N::is_finite(product); }
  FC_DEVICE ScanSummary of_lane(int from) const {
    return {N::of_lane(state, from), N::of_lane(product, from),
            __shfl_sync(~0u, int(reaches), from) != 0};
  }
};

// The states behind the chunks, from those that came of zero: a warp for a lane, whose threads have
// some chunks each. They sum up their own, then tell one another, then walk through them.
template <class N>
__global__ void __launch_bounds__(kScanThreads, kLeastStateBlocks)
    scan_states_kernel(ScanChunks chunks, std::int64_t lanes) {
  using A = typename N::A;
  const int rank = int(threadIdx.x) % kLanes;
  const std::int64_t lane = (std::int64_t(blockIdx.x) * kScanThreads + threadIdx.x) / kLanes;
  if (lane >= lanes) return;
  const std::int64_t count = chunks.plan.chunks - 1, share = (count + kLanes - 1) / kLanes;
  const std::int64_t first = rank * share, last = first + share < count ? first + share : count;
  auto mine = ScanSummary<N>::nothing();
  bool is_finite = true;
  for (std::int64_t chunk = first; chunk < last; ++chunk) {
    const auto next = ScanSummary<N>::load(chunks, chunk * lanes + lane);
    mine = mine.then(next);
    is_finite = is_finite && next.is_finite() && mine.is_finite();
  }
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const auto before = mine.of_lane(rank - distance);
    if (rank >= distance) mine = before.then(mine);
    is_finite = is_finite && mine.is_finite();
  }
  A state = N::of_lane(mine.state, rank - 1);
  if (rank == 0) state = N::zero();
  const bool is_whole = __ballot_sync(~0u, !is_finite) != 0;
  if (rank == 0) chunks.is_whole[lane] = is_whole;
  for (std::int64_t chunk = first; chunk < last; ++chunk) {
    const std::int64_t at = chunk * lanes + lane;
    const auto next = ScanSummary<N>::load(chunks, at);
    state = next.reaches ? N::multiply_add(next.product, state, next.state) : next.state;
    static_cast<A*>(chunks.states)[at] = state;
  }
}

inline std::int64_t scan_blocks(std::int64_t threads) {
  return (threads + kScanThreads - 1) / kScanThreads;
}

// The kernels in their order, `summary` and `walk` those of one direction; run(blocks, kernel,
// args...) runs one, or returns why not.
template <class N, class Args, class Kernel, class Run>
cudaError_t run_scan(const Args& args, const ScanChunks& chunks, Kernel summary, Kernel walk,
                     const Run& run) {
  const std::int64_t lanes = args.B * args.H, count = chunks.plan.chunks;
  if (count > 1) {
    cudaError_t error = run(scan_blocks(lanes * (count - 1)), summary, args, chunks);
    if (error != cudaSuccess) return error;
    error = run(scan_blocks(lanes * kLanes), scan_states_kernel<N>, chunks, lanes);
    if (error != cudaSuccess) return error;
  }
  return run(scan_blocks(lanes * count), walk, args, chunks);
}

}  // namespace fastcells::cuda
