// A scan forward on CUDA: h = a h + b.
#pragma once
#include "scan/cuda/walk.cuh"

namespace fastcells::cuda {

// The state in front of a row's first step.
template <class N>
FC_HD typename N::A initial_state(const ScanForwardArgs& a, const ScanLane& lane) {
  if (!a.h_0 || a.rows.cut_initial(lane.row)) return N::zero();
  return N::load(static_cast<const typename N::T*>(a.h_0) + lane.lane);
}

// With kWrites all h, else the summary of a chunk.
template <class N, bool kWrites>
__global__ void __launch_bounds__(kScanThreads)
    scan_forward_kernel(ScanForwardArgs args, ScanChunks chunks) {
  using A = typename N::A;
  constexpr int kSteps = kLoadedSteps<N>;
  const ScanLane lane = scan_lane(args, chunks, kWrites);
  if (!lane.is_there) return;
  const RowWalk walk(args.rows, lane.row, args.rows.reverse);
  const LaneOperand<N> a(args.a, lane), b(args.b, lane);
  const LaneResult<N> h(args.h, lane);
  A state = kWrites ? incoming_state<N>(chunks, lane) : N::zero(), product = N::one();
  bool reaches = true;
  for (std::int64_t p = lane.begin; p < lane.end; p += kSteps) {
    A factor[kSteps], term[kSteps];
    bool is_cut[kSteps];
    FC_UNROLL
    for (int u = 0; u < kSteps; ++u) {
      const std::int64_t t = walk.step(p + u);
      const bool is_there = p + u < lane.end && walk.exists(t);
      factor[u] = is_there ? a.at(t) : N::zero();
      term[u] = is_there ? b.at(t) : N::zero();
      is_cut[u] = is_there && walk.is_cut_before(t);
    }
    FC_UNROLL
    for (int u = 0; u < kSteps; ++u) {
      if (p + u >= lane.end) break;
      const std::int64_t t = walk.step(p + u);
      if (!walk.exists(t)) {
        if (kWrites) h.set(t, N::zero());
        continue;
      }
      if (walk.is_first(t)) state = initial_state<N>(args, lane), reaches = false;
      if (is_cut[u]) state = N::zero(), reaches = false;
      state = N::multiply_add(factor[u], state, term[u]);
      if (kWrites) {
        h.set(t, state);
      } else {
        product = N::multiply(factor[u], product);
      }
    }
  }
  if (!kWrites) ScanSummary<N>{state, product, reaches}.store(chunks, lane);
}

}  // namespace fastcells::cuda
