// What nvcc provides without a header, for the kernels under the emulator.
#pragma once
#include "simt/shared.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (simt::self().thread)
#define blockIdx (simt::self().block->index)
#define blockDim (simt::machine->threads)
#define gridDim (simt::machine->grid)

inline void __syncthreads() { simt::arrive_and_wait(simt::self().block->barrier, true); }
// Whether any thread of the block says so.
inline int __syncthreads_or(int predicate) {
  simt::Block& block = *simt::self().block;
  bool& any = block.votes[block.barrier.phase];
  any = any || predicate != 0;
  __syncthreads();
  return any;
}
// All lanes of the kernels' warps take part in what they do together.
inline void __syncwarp(unsigned = 0xffffffffu) {
  simt::arrive_and_wait(simt::warp().barrier, true);
}

namespace simt {

// Every lane shows a value and then looks at the others'. Registers alone pass: memory is not
// ordered by it.
template <class T, class Look>
auto exchange(const T& mine, Look look) {
  static_assert(sizeof(T) <= sizeof(Warp::slot[0]) && std::is_trivially_copyable_v<T>);
  Warp& w = warp();
  see(Seen::kRegisters, {});
  std::memcpy(w.slot[lane()], &mine, sizeof mine);
  // What earlier exchanges left here is known to all lanes already.
  join(w.reads_over, self().clock.over);
  arrive_and_wait(w.barrier, false);
  join(self().clock.over, w.reads_over);
  const auto result = look([&w](unsigned other) {
    T value;
    std::memcpy(&value, w.slot[other % kWarp], sizeof value);
    return value;
  });
  arrive_and_wait(w.barrier, false);
  return result;
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return simt::exchange(value, [from](auto of) { return of(unsigned(from)); });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  return simt::exchange(predicate, [](auto of) {
    unsigned bits = 0;
    for (unsigned from = 0; from < simt::kWarp; ++from) bits |= unsigned(of(from) != 0) << from;
    return bits;
  });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return simt::exchange(value, [mask](auto of) { return of(simt::lane() ^ unsigned(mask)); });
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta) {
  return simt::exchange(value, [delta, value](auto of) {
    const unsigned from = simt::lane() + unsigned(delta);
    return from < simt::kWarp ? of(from) : value;
  });
}
