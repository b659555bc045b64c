// The way back of a scan on CUDA: g = grad + conj(a) g from the last step to the first, and from it
// the gradients of a, b and h_0.
#pragma once
#include "scan/cuda/walk.cuh"

namespace fastcells::cuda {

// Steps whose terms are added up on their own: the rounding of a long sum grows with their number.
constexpr std::int64_t kScanStepsOfSum = 128;

// h_p of step t: of the step that the scan took before it, h_0, or nothing.
template <class N>
FC_HD typename N::A previous_state(const ScanBackwardArgs& args, const RowWalk& walk,
                                   const ScanLane& lane, const LaneOperand<N>& h, std::int64_t t) {
  const std::int64_t before = walk.is_down ? t - 1 : t + 1;
  if (before < 0 || before >= walk.length) {
    if (!args.h_0 || args.rows.cut_initial(lane.row)) return N::zero();
    return N::load(static_cast<const typename N::T*>(args.h_0) + lane.lane);
  }
  return walk.is_cut_before(before) ? N::zero() : h.at(before);
}

// With kWrites all gradients that are asked for, else the summary of a chunk. The state is conj(a)
// g.
template <class N, bool kWrites>
__global__ void __launch_bounds__(kScanThreads)
    scan_backward_kernel(ScanBackwardArgs args, ScanChunks chunks) {
  using A = typename N::A;
  constexpr int kSteps = kLoadedSteps<N> / 2;
  const ScanLane lane = scan_lane(args, chunks, kWrites);
  if (!lane.is_there) return;
  const RowWalk walk(args.rows, lane.row, !args.rows.reverse);
  const LaneOperand<N> a(args.a, lane), grad(args.grad_h, lane), h(args.h, lane);
  const LaneResult<N> d_b(args.d_b, lane), d_a(args.d_a, lane);
  const bool wants_a = kWrites && (d_a.data || args.d_a_sums);
  A state = kWrites ? incoming_state<N>(chunks, lane) : N::zero();
  A product = N::one(), sum = N::zero(), some = N::zero();
  bool reaches = true;
  for (std::int64_t p = lane.begin; p < lane.end; p += kSteps) {
    A factor[kSteps], incoming[kSteps], before[kSteps];
    bool is_cut[kSteps];
    FC_UNROLL
    for (int u = 0; u < kSteps; ++u) {
      const std::int64_t t = walk.step(p + u);
      const bool is_there = p + u < lane.end && walk.exists(t);
      factor[u] = is_there ? a.at(t) : N::zero();
      incoming[u] = is_there ? grad.at(t) : N::zero();
      before[u] = is_there && wants_a ? previous_state<N>(args, walk, lane, h, t) : N::zero();
      is_cut[u] = is_there && walk.is_cut_before(t);
    }
    FC_UNROLL
    for (int u = 0; u < kSteps; ++u) {
      if (p + u >= lane.end) break;
      const std::int64_t t = walk.step(p + u);
      if (!walk.exists(t)) {
        if (kWrites && d_b.data) d_b.set(t, N::zero());
        if (kWrites && d_a.data) d_a.set(t, N::zero());
        continue;
      }
      if (is_cut[u] || walk.is_first(t)) state = N::zero(), reaches = false;
      const A g = N::add(incoming[u], state);
      state = N::conjugate_multiply(factor[u], g);
      if (kWrites) {
        const A d_factor = N::conjugate_multiply(before[u], g);
        if (d_b.data) d_b.set(t, g);
        if (d_a.data) d_a.set(t, d_factor);
        some = N::add(some, d_factor);
      } else {
        product = N::conjugate_multiply(factor[u], product);
      }
    }
    if ((p - lane.begin) % kScanStepsOfSum == 0) sum = N::add(sum, some), some = N::zero();
  }
  if (!kWrites) return ScanSummary<N>{state, product, reaches}.store(chunks, lane);
  if (args.d_a_sums) {
    static_cast<A*>(args.d_a_sums)[lane.chunk * lane.lanes + lane.lane] = N::add(sum, some);
  }
  if (!args.d_h_0 || lane.end != args.T) return;
  const bool reaches_h_0 = walk.length > 0 && !args.rows.cut_initial(lane.row);
  N::store(static_cast<typename N::T*>(args.d_h_0) + lane.lane, reaches_h_0 ? state : N::zero());
}

}  // namespace fastcells::cuda
