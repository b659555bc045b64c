// The one matrix product of the CPU engine: rows of A times a panel of packed weights.
//
//   out[i][j] = sum_k a[i][k] * panel[k][j] + init[i][j]         i < n rows, j < R vectors
//
// A panel is [k][R][lanes], one after another in memory; an operand of A is broadcast. A tile of
// MR rows keeps MR*R accumulators in registers over all k: with 16 registers (AVX2) 3x4, 4x3, 6x2,
// with 32 (AVX512) 6x4, 8x3, 12x2. The order of a sum over k depends on the tile.
#pragma once
#include "cpu/isa/vector.h"

namespace fastcells {
namespace {

// Rows of a tile whose panel is R vectors wide.
template <int R>
constexpr int kTileRows = (kRegisters == 32 ? 24 : 12) / R;

// Bytes of a panel that stay in the first-level cache while the rows pass over it.
constexpr std::int64_t kPanelBytes = 16 * 1024;

template <class S, int R>
constexpr std::int64_t kPanelSteps = kPanelBytes / (R * kVectorBytes);

// acc += x * w. Written as the instruction: left to itself the compiler lets the sum wander from
// register to register and spills.
template <class S>
FC_INLINE void multiply_add(Vector<S>& acc, Vector<S> x, Vector<S> w) {
#if defined(FASTCELLS_AVX2) || defined(FASTCELLS_AVX512)
  if constexpr (sizeof(S) == 4) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc.v) : "v"(x.v), "v"(w.v));
  } else {
    asm("vfmadd231pd %2, %1, %0" : "+v"(acc.v) : "v"(x.v), "v"(w.v));
  }
#else
  acc = x * w + acc;
#endif
}

// acc[i][v] += a[i][k] * panel[k][v]. Accumulators, the shorter side and one operand of the other
// just fit the registers.
template <int MR, int R, class S>
FC_INLINE void accumulate(const S* const (&row)[MR], std::int64_t k, const S* panel,
                          Vector<S> (&acc)[MR][R]) {
  using V = Vector<S>;
  panel += k * R * V::kLanes;
  if constexpr (MR <= R) {
    V x[MR];
    FC_UNROLL
    for (int i = 0; i < MR; ++i) x[i] = V(row[i][k]);
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      const V w = V::load(panel + v * V::kLanes);
      FC_UNROLL
      for (int i = 0; i < MR; ++i) multiply_add(acc[i][v], x[i], w);
    }
  } else {
    V w[R];
    FC_UNROLL
    for (int v = 0; v < R; ++v) w[v] = V::load(panel + v * V::kLanes);
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      const V x(row[i][k]);
      FC_UNROLL
      for (int v = 0; v < R; ++v) multiply_add(acc[i][v], x, w[v]);
    }
  }
}

template <int MR, int R, class S>
FC_INLINE void product_tile(const S* const* a, std::int64_t K, const S* panel, const S* init,
                            std::int64_t init_stride, S* out, std::int64_t out_stride) {
  using V = Vector<S>;
  constexpr int L = V::kLanes;
  // An accumulator waits 4 cycles for its last sum, and two can start a cycle: 8 must be under way.
  constexpr int kChains = MR * R >= 8 ? 1 : MR * R >= 3 ? 2 : 4;
  V acc[kChains][MR][R];
  FC_UNROLL
  for (int c = 0; c < kChains; ++c) {
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      FC_UNROLL
      for (int v = 0; v < R; ++v) acc[c][i][v] = V(S(0));
    }
  }
  const S* row[MR];
  FC_UNROLL
  for (int i = 0; i < MR; ++i) row[i] = a[i];
  constexpr int kUnroll = 4;
  std::int64_t k = 0;
  for (; k + kUnroll <= K; k += kUnroll) {
    FC_UNROLL
    for (int c = 0; c < kUnroll; ++c) accumulate(row, k + c, panel, acc[c % kChains]);
  }
  for (; k < K; ++k) accumulate(row, k, panel, acc[0]);
  FC_UNROLL
  for (int i = 0; i < MR; ++i) {
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      V sum = acc[0][i][v];
      FC_UNROLL
      for (int c = 1; c < kChains; ++c) sum = sum + acc[c][i][v];
      // Added last: a large bias would round every sum on the way.
      if (init) sum = sum + V::load(init + i * init_stride + v * L);
      sum.store(out + i * out_stride + v * L);
    }
  }
}

template <int MR, int R, class S>
__attribute__((noinline)) void product_tile_of(const S* const* a, std::int64_t K, const S* panel,
                                               const S* init, std::int64_t init_stride, S* out,
                                               std::int64_t out_stride) {
  product_tile<MR, R>(a, K, panel, init, init_stride, out, out_stride);
}

template <int MR, int R, class S>
FC_INLINE void product_tile_at_most(int rows, const S* const* a, std::int64_t K, const S* panel,
                                    const S* init, std::int64_t init_stride, S* out,
                                    std::int64_t out_stride) {
  if (rows == MR) {
    product_tile_of<MR, R>(a, K, panel, init, init_stride, out, out_stride);
  } else if constexpr (MR > 1) {
    product_tile_at_most<MR - 1, R>(rows, a, K, panel, init, init_stride, out, out_stride);
  }
}

// All n rows. `init`: one row for all ([R*L], init_stride 0), a row each, or nullptr for zeros; it
// may be `out` itself. With many rows the panel is taken in pieces that stay in the cache.
template <int R, class S>
inline void product(std::int64_t n, const S* const* a, std::int64_t K, const S* panel,
                    const S* init, std::int64_t init_stride, S* out, std::int64_t out_stride,
                    const S** shifted /* [n] scratch */) {
  constexpr int MR = kTileRows<R>, L = Vector<S>::kLanes;
  if (n <= 0) return;
  const std::int64_t tiles = (n + MR - 1) / MR, least = n / tiles, longer = n % tiles;
  const std::int64_t piece = tiles > 2 || K == 0 ? kPanelSteps<S, R> : K;
  for (std::int64_t k = 0; k == 0 || k < K; k += piece) {
    const std::int64_t steps = K - k < piece ? K - k : piece;
    const S* const* rows = a;
    if (k > 0) {
      for (std::int64_t i = 0; i < n; ++i) shifted[i] = a[i] + k;
      rows = shifted;
      init = out, init_stride = out_stride;
    }
    std::int64_t i = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const int m = int(least + (tile < longer ? 1 : 0));
      product_tile_at_most<MR, R>(m, rows + i, steps, panel + k * R * L,
                                  init ? init + i * init_stride : nullptr, init_stride,
                                  out + i * out_stride, out_stride);
      i += m;
    }
  }
}

}  // namespace
}  // namespace fastcells
