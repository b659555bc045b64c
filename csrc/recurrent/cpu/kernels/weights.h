// Weights in the order in which the products read them, and the sums over all frames that give
// their gradients.
#pragma once
#include "recurrent/cpu/kernels/shape.h"

namespace fastcells {
namespace {

// Column j of a panel is row rows[j] of the source, or zero (nullptr): panel[k][j] = rows[j][k].
template <class S, class T>
inline void transpose_into(const T* const* rows, int64_t columns, int64_t K, S* panel) {
  using V = Vector<S>;
  constexpr int64_t kBlock = 64;  // columns of the source whose lines stay in the cache
  for (int64_t k0 = 0; k0 < K; k0 += kBlock) {
    const int64_t steps = at_most(kBlock, K - k0);
    for (int64_t j = 0; j < columns; ++j) {
      S* to = panel + k0 * columns + j;
      if (!rows[j]) {
        for (int64_t k = 0; k < steps; ++k) to[k * columns] = S(0);
        continue;
      }
      S converted[kBlock + V::kLanes];
      const S* from = as_arithmetic(rows[j] + k0, steps, converted);
      for (int64_t k = 0; k < steps; ++k) to[k * columns] = from[k];
    }
  }
}

template <class Cell, class T, class S>
void pack_gates(const void* weight, const void* bias, int64_t H, int64_t K, int64_t first,
                int64_t last, void* panels, void* bias_panels) {
  using Sh = Shape<Cell, T, S>;
  constexpr int64_t kColumns = Sh::R * Sh::L;
  for (int64_t q = first; q < last; ++q) {
    const T* rows[kColumns];
    for (int64_t j = 0; j < kColumns; ++j) {
      const int64_t gate = j / Sh::L % Sh::G;
      const int64_t u = q * Sh::kUnits + j / (Sh::G * Sh::L) * Sh::L + j % Sh::L;
      const int64_t row = gate * H + u;
      rows[j] = u < H ? static_cast<const T*>(weight) + row * K : nullptr;
      if (!bias) continue;
      S value = S(0), converted[1];
      if (u < H) value = *as_arithmetic(static_cast<const T*>(bias) + row, 1, converted);
      static_cast<S*>(bias_panels)[q * kColumns + j] = value;
    }
    transpose_into(rows, kColumns, K, static_cast<S*>(panels) + q * K * kColumns);
  }
}

// Panel q of a matrix given by its rows (nullptr: zeros): panel[k][j] = rows[k][q * columns + j].
template <class Sh, class T>
FC_INLINE void pack_plain_panel(const T* row, int64_t N, int64_t q, typename Sh::S* to) {
  using V = typename Sh::V;
  FC_UNROLL
  for (int v = 0; v < Sh::kPlain; ++v) {
    const int64_t n = N - q * Sh::kColumns - v * Sh::L;
    const V x =
        row && n > 0 ? load_lanes<V>(row + q * Sh::kColumns + v * Sh::L, n) : V(typename Sh::S(0));
    store(to + v * Sh::L, x);
  }
}

template <class Cell, class T, class S>
void pack_plain(const void* weight, int64_t K, int64_t N, int64_t first, int64_t last,
                void* panels) {
  using Sh = Shape<Cell, T, S>;
  for (int64_t q = first; q < last; ++q) {
    S* to = static_cast<S*>(panels) + q * K * Sh::kColumns;
    for (int64_t k = 0; k < K; ++k, to += Sh::kColumns) {
      pack_plain_panel<Sh>(static_cast<const T*>(weight) + k * N, N, q, to);
    }
  }
}

// A block of the gates' gradients that lies together while all columns of the operand meet it: its
// rows as they are lie a power of two apart, and would all want the same lines of the cache.
constexpr int64_t kBlockRows = 48, kBlockFrames = 256;

template <class S>
struct WeightScratch {
  S* gates;  // [kBlockFrames][kBlockRows]
  S* block;  // [kBlockRows][columns]
  explicit WeightScratch(Arena& arena, int64_t columns)
      : gates(arena.take<S>(kBlockFrames * kBlockRows)),
        block(arena.take<S>(kBlockRows * columns)) {}
};

// The first n columns of some rows, nothing past them.
template <class V, class S = typename V::S>
FC_INLINE void copy_columns(const S* from, int64_t from_stride, S* to, int64_t to_stride,
                            int64_t rows, int64_t n) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; j += V::kLanes) {
      store_lanes(to + i * to_stride + j, load_lanes<V>(from + i * from_stride + j, n - j), n - j);
    }
  }
}

// Rows first .. last - 1 of d_weight [M, N] (+)= gates^T operand: gates [frames, M] as it lies,
// the operand in plain panels [q][capacity][columns].
template <class Sh, class S = typename Sh::S>
inline void add_weight_gradient(const S* gates, int64_t M, const S* panels, int64_t capacity,
                                int64_t N, int64_t frames, Range range, bool is_first, S* d_weight,
                                const WeightScratch<S>& scratch) {
  using V = typename Sh::V;
  constexpr int64_t C = Sh::kColumns;
  for (int64_t m0 = range.first; m0 < range.last; m0 += kBlockRows) {
    const int64_t rows = at_most(kBlockRows, range.last - m0);
    for (int64_t f0 = 0; f0 < frames; f0 += kBlockFrames) {
      const int64_t piece = at_most(kBlockFrames, frames - f0);
      copy_columns<V>(gates + f0 * M + m0, M, scratch.gates, kBlockRows, piece, rows);
      const ColumnOperand<S> block{scratch.gates, kBlockRows};
      const bool is_start = is_first && f0 == 0;
      for (int64_t q = 0; q * C < N; ++q) {
        const int64_t n = N - q * C;
        S* const to = d_weight + m0 * N + q * C;
        const S* panel = panels + (q * capacity + f0) * C;
        if (n >= C) {
          product<Sh::kPlain>(rows, block, piece, panel, is_start ? nullptr : to, N, to, N);
          continue;
        }
        if (!is_start) copy_columns<V>(to, N, scratch.block, C, rows, n);
        product<Sh::kPlain>(rows, block, piece, panel, is_start ? nullptr : scratch.block, C,
                            scratch.block, C);
        copy_columns<V>(scratch.block, C, to, N, rows, n);
      }
    }
  }
}

// Columns first .. last - 1 of d_bias (+)= the sum of the rows of gates [frames, M]. In blocks of
// frames, so that few roundings meet one large sum.
template <class Sh, class S = typename Sh::S>
inline void add_bias_gradient(const S* gates, int64_t M, int64_t frames, Range range, bool is_first,
                              S* d_bias) {
  using V = typename Sh::V;
  constexpr int64_t kBlock = 32;
  for (int64_t m = range.first; m < range.last; m += Sh::L) {
    const int64_t n = range.last - m;
    V total = is_first ? V(S(0)) : load_lanes<V>(d_bias + m, n);
    for (int64_t f0 = 0; f0 < frames; f0 += kBlock) {
      V sum(S(0));
      for (int64_t f = f0; f < at_most(f0 + kBlock, frames); ++f) {
        sum = sum + load_lanes<V>(gates + f * M + m, n);
      }
      total = total + sum;
    }
    store_lanes(d_bias + m, total, n);
  }
}

}  // namespace
}  // namespace fastcells
