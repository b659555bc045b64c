// Weights in the order in which the products read them, and the sums over all frames that give
// their gradients.
#pragma once
#include "cpu/simd/transpose.h"
#include "recurrent/cpu/kernels/shape.h"

namespace fastcells {
namespace {

// Panel q of W [G*H, K] as it lies: [K][W][G][lanes], each lane a unit; zeros past the last unit.
// And the same of the bias [G*H], or nullptr.
template <class Cell, class T, class S>
inline void pack_gate_panel(const T* weight, const T* bias, int64_t H, int64_t K, int64_t q, S* to,
                            S* bias_to) {
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  constexpr int L = Sh::L;
  for (int v = 0; v < Sh::R; ++v) {
    const int64_t u = q * Sh::kUnits + v / Sh::G * L, rows = at_most(L, H - u);
    const int64_t row = v % Sh::G * H + (rows > 0 ? u : 0);
    rows_to_lanes(weight + row * K, K, rows, K, to + v * L, Sh::R * L, S(1));
    if (bias) store(bias_to + v * L, rows > 0 ? load_lanes<V>(bias + row, rows) : V(S(0)));
  }
}

template <class Cell, class T, class S>
void pack_gates(const void* weight, const void* bias, int64_t H, int64_t K, int64_t first,
                int64_t last, void* panels, void* bias_panels) {
  constexpr int64_t kColumns = Shape<Cell, T, S>::R * Shape<Cell, T, S>::L;
  for (int64_t q = first; q < last; ++q) {
    pack_gate_panel<Cell>(static_cast<const T*>(weight), static_cast<const T*>(bias), H, K, q,
                          static_cast<S*>(panels) + q * K * kColumns,
                          static_cast<S*>(bias_panels) + (bias ? q * kColumns : 0));
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

// Panel q of W [M, N] and the distance of its rows: where it lies, or packed into `scratch`
// [M][columns] where it is the edge or of another type.
template <class Sh, class T, class S = typename Sh::S>
inline StridedPanel<S, Sh::kPlain> plain_panel(const T* weight, int64_t M, int64_t N, int64_t q,
                                               S* scratch) {
  if constexpr (sizeof(T) == sizeof(S)) {
    if ((q + 1) * Sh::kColumns <= N) return {weight + q * Sh::kColumns, N};
  }
  for (int64_t k = 0; k < M; ++k) {
    pack_plain_panel<Sh>(weight + k * N, N, q, scratch + k * Sh::kColumns);
  }
  return {scratch, Sh::kColumns};
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

// out[i][j] += sum_k a[i][k] weight[k][j] for columns first .. last - 1 of a weight [K, N] as it
// lies and few rows i, at most kFewRows: each row of the weight is read once, from end to end. The
// products of four rows are summed among themselves, so that few roundings meet the long sum.
constexpr int64_t kFewRows = 4;

template <class V, int kRows, class T, class S = typename V::S>
FC_INLINE void add_few_rows(const S* const* a, int64_t K, const T* weight, int64_t N, Range columns,
                            S* out, int64_t out_stride) {
  int64_t k = 0;
  for (; k + 4 <= K; k += 4) {
    const T* const rows[4] = {weight + k * N, weight + (k + 1) * N, weight + (k + 2) * N,
                              weight + (k + 3) * N};
    V x[kRows][4];
    for (int i = 0; i < kRows; ++i) {
      for (int s = 0; s < 4; ++s) x[i][s] = V(a[i][k + s]);
    }
    for (int64_t j = columns.first; j < columns.last; j += V::kLanes) {
      const int64_t n = columns.last - j;
      V w[4];
      FC_UNROLL
      for (int s = 0; s < 4; ++s) w[s] = load_lanes<V>(rows[s] + j, n);
      FC_UNROLL
      for (int i = 0; i < kRows; ++i) {
        S* const to = out + i * out_stride + j;
        const V even = w[0] * x[i][0] + w[2] * x[i][2], odd = w[1] * x[i][1] + w[3] * x[i][3];
        store_lanes(to, load_lanes<V>(to, n) + (even + odd), n);
      }
    }
  }
  for (; k < K; ++k) {
    for (int64_t j = columns.first; j < columns.last; j += V::kLanes) {
      const int64_t n = columns.last - j;
      const V w = load_lanes<V>(weight + k * N + j, n);
      for (int i = 0; i < kRows; ++i) {
        S* const to = out + i * out_stride + j;
        store_lanes(to, w * V(a[i][k]) + load_lanes<V>(to, n), n);
      }
    }
  }
}
template <class V, class T, class S = typename V::S>
inline void add_few_rows(int64_t n, const S* const* a, int64_t K, const T* weight, int64_t N,
                         Range columns, S* out, int64_t out_stride) {
  switch (n) {
    case 1: return add_few_rows<V, 1>(a, K, weight, N, columns, out, out_stride);
    case 2: return add_few_rows<V, 2>(a, K, weight, N, columns, out, out_stride);
    case 3: return add_few_rows<V, 3>(a, K, weight, N, columns, out, out_stride);
    default: return add_few_rows<V, 4>(a, K, weight, N, columns, out, out_stride);
  }
}

// Rows first .. last - 1 of d_weight [M, N] = gates^T operand for few frames: every element is
// written once, and nothing is packed. rows[f] is the operand's, or nullptr for zeros.
template <class V, class T, class S = typename V::S>
inline void few_frames_gradient(const S* gates, int64_t M, int64_t frames,
                                const T* const (&rows)[kFewRows], int64_t N, Range range,
                                S* d_weight) {
  for (int64_t m = range.first; m < range.last; ++m) {
    S* const to = d_weight + m * N;
    V x[kFewRows];
    for (int64_t f = 0; f < frames; ++f) x[f] = V(gates[f * M + m]);
    for (int64_t j = 0; j < N; j += V::kLanes) {
      const int64_t n = N - j;
      V sum(S(0));
      for (int64_t f = 0; f < frames; ++f) {
        if (rows[f]) sum = x[f] * load_lanes<V>(rows[f] + j, n) + sum;
      }
      store_lanes(to + j, sum, n);
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
