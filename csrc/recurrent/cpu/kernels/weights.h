// Weights in the order in which the products read them, and the sums over all frames that give
// their gradients.
#pragma once
#include "recurrent/cpu/kernels/panels.h"
#include "recurrent/cpu/kernels/shape.h"

namespace fastcells {
namespace {

// Steps k .. k + steps - 1 of panel q of W [G*H, K] as it lies: [steps][W][G][lanes], each lane a
// unit; zeros past the last unit.
template <class Sh, class T, class S = typename Sh::S>
FC_INLINE void gate_panel_steps(const T* weight, int64_t H, int64_t K, int64_t q, int64_t k,
                                int64_t steps, S* to) {
  constexpr int L = Sh::L;
  for (int v = 0; v < Sh::R; ++v) {
    const int64_t u = q * Sh::kUnits + v / Sh::G * L, rows = at_most(L, H - u);
    const int64_t row = v % Sh::G * H + (rows > 0 ? u : 0);
    rows_to_lanes(weight + row * K + k, K, rows, steps, to + v * L, Sh::R * L, S(1));
  }
}
// The same of the bias [G*H], or nothing of nullptr.
template <class Sh, class T, class S = typename Sh::S>
FC_INLINE void bias_panel(const T* bias, int64_t H, int64_t q, S* to) {
  using V = typename Sh::V;
  for (int v = 0; v < Sh::R && bias; ++v) {
    const int64_t u = q * Sh::kUnits + v / Sh::G * Sh::L, rows = at_most(Sh::L, H - u);
    const T* const from = bias + v % Sh::G * H + (rows > 0 ? u : 0);
    store(to + v * Sh::L, rows > 0 ? load_lanes<V>(from, rows) : V(S(0)));
  }
}

// Panel q of W [G*H, K], and of the bias [G*H] or nullptr. int8 has the scales of its rows.
template <class P, class Sh, class T>
inline void pack_gate_panel(const typename P::Weight* weight, const float* scales, const T* bias,
                            int64_t H, int64_t K, int64_t q, void* to, typename Sh::S* bias_to) {
  using S = typename Sh::S;
  constexpr int64_t kSteps = 64;
  if constexpr (std::is_same_v<P, WholePanels<S>>) {
    gate_panel_steps<Sh>(weight, H, K, q, 0, K, static_cast<S*>(to));
  } else if constexpr (std::is_same_v<typename P::Row, Int8Quad>) {
    const std::int8_t* columns[Sh::R * Sh::L] = {};
    float scale[Sh::R * Sh::L] = {};
    for (int j = 0; j < Sh::R * Sh::L; ++j) {
      const int64_t v = j / Sh::L, u = q * Sh::kUnits + v / Sh::G * Sh::L + j % Sh::L;
      if (u >= H) continue;
      columns[j] = weight + (v % Sh::G * H + u) * K, scale[j] = scales[v % Sh::G * H + u];
    }
    P::template pack<Sh::R>(columns, scale, K, to);
  } else {
    alignas(64) S piece[kSteps * Sh::R * Sh::L];
    for (int64_t k = 0; k < K; k += kSteps) {
      const int64_t steps = at_most(kSteps, K - k);
      gate_panel_steps<Sh>(weight, H, K, q, k, steps, piece);
      P::template put<Sh::R>(piece, k, steps, to);
    }
  }
  bias_panel<Sh>(bias, H, q, bias_to);
}

template <class Cell, class T, class P>
void pack_gates(const void* weight, const float* scales, const void* bias, int64_t H, int64_t K,
                int64_t first, int64_t last, void* panels, void* bias_panels) {
  using Sh = Shape<Cell, T, typename P::S>;
  constexpr int64_t kColumns = Sh::R * Sh::L;
  for (int64_t q = first; q < last; ++q) {
    pack_gate_panel<P, Sh>(static_cast<const typename P::Weight*>(weight), scales,
                           static_cast<const T*>(bias), H, K, q,
                           static_cast<char*>(panels) + q * P::template bytes<Sh::R>(K),
                           static_cast<typename P::S*>(bias_panels) + (bias ? q * kColumns : 0));
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

template <class Cell, class T, class P>
void pack_plain(const void* weight, int64_t K, int64_t N, int64_t first, int64_t last,
                void* panels) {
  using S = typename P::S;
  using Sh = Shape<Cell, T, S>;
  constexpr int64_t C = Sh::kColumns, kSteps = 64;
  constexpr bool kIsWhole = std::is_same_v<P, WholePanels<S>>;
  alignas(64) S piece[kIsWhole ? 1 : kSteps * C];
  for (int64_t q = first; q < last; ++q) {
    char* const panel = static_cast<char*>(panels) + q * P::template bytes<Sh::kPlain>(K);
    for (int64_t k = 0; k < K; k += kSteps) {
      const int64_t steps = at_most(kSteps, K - k);
      S* const to = kIsWhole ? reinterpret_cast<S*>(panel) + k * C : piece;
      for (int64_t s = 0; s < steps; ++s) {
        const auto* row = static_cast<const typename P::Weight*>(weight) + (k + s) * N;
        pack_plain_panel<Sh>(row, N, q, to + s * C);
      }
      if constexpr (!kIsWhole) P::template put<Sh::kPlain>(piece, k, steps, panel);
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

// Rows first .. last - 1 of d_weight [M, N] (+)= gates^T operand for few frames: every element is
// written once, and nothing is packed. rows[f] is the operand's, or nullptr for zeros.
template <class V, class T, class S = typename V::S>
inline void few_frames_gradient(const S* gates, int64_t M, int64_t frames,
                                const T* const (&rows)[kFewRows], int64_t N, Range range,
                                bool is_first, S* d_weight) {
  for (int64_t m = range.first; m < range.last; ++m) {
    S* const to = d_weight + m * N;
    V x[kFewRows];
    for (int64_t f = 0; f < frames; ++f) x[f] = V(gates[f * M + m]);
    for (int64_t j = 0; j < N; j += V::kLanes) {
      const int64_t n = N - j;
      V sum = is_first ? V(S(0)) : load_lanes<V>(to + j, n);
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

template <class S, class E>
struct WeightScratch {
  E* gates;  // [kBlockFrames][kBlockRows]
  S* block;  // [kBlockRows][columns]
  explicit WeightScratch(Arena& arena, int64_t columns)
      : gates(arena.take<E>(kBlockFrames * kBlockRows)),
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

// The same of frames as elements of a product over frames: of two where an element is a pair.
template <class V, class S>
FC_INLINE void gate_elements(const S* from, int64_t stride, S* to, int64_t frames, int64_t n) {
  copy_columns<V>(from, stride, to, kBlockRows, frames, n);
}
template <class V>
FC_INLINE V frame_or_zeros(const float* from, int64_t stride, int64_t f, int64_t frames,
                           int64_t n) {
  return f < frames ? load_lanes<V>(from + f * stride, n) : V(0.0f);
}
template <class V>
FC_INLINE void gate_elements(const float* from, int64_t stride, BFloat16Pair* to, int64_t frames,
                             int64_t n) {
  for (int64_t f = 0; f < frames; f += 2, to += kBlockRows) {
    for (int64_t j = 0; j < n; j += V::kLanes) {
      store_pairs(to + j, frame_or_zeros<V>(from + j, stride, f, frames, n - j),
                  frame_or_zeros<V>(from + j, stride, f + 1, frames, n - j));
    }
  }
}
// The same turned over, a row of `length` pairs for each column.
template <class V>
FC_INLINE void gate_rows(const float* from, int64_t stride, BFloat16Pair* to, int64_t length,
                         int64_t frames, int64_t n) {
  constexpr int64_t L = V::kLanes;
  for (int64_t p = 0; p < length; p += L) {
    for (int64_t j = 0; j < n; j += L) {
      V pairs[L];
      for (int64_t i = 0; i < L; ++i) {
        const int64_t f = 2 * (p + i);
        const Words both = pairs_of(frame_or_zeros<V>(from + j, stride, f, frames, n - j),
                                    frame_or_zeros<V>(from + j, stride, f + 1, frames, n - j));
        pairs[i] = V::of((typename V::Native)both);
      }
      transpose_lanes(pairs);
      for (int64_t i = 0; i < at_most(L, n - j); ++i) {
        std::memcpy(to + (j + i) * length + p, &pairs[i], sizeof pairs[i]);
      }
    }
  }
}

// Rows first .. last - 1 of d_weight [M, N] (+)= gates^T operand: gates [frames, M] as it lies,
// the operand in plain panels [q][capacity][columns] of P's elements over frames.
template <class Sh, class P = WholePanels<typename Sh::S>, class E, class S = typename Sh::S>
inline void add_weight_gradient(const S* gates, int64_t M, const E* panels, int64_t capacity,
                                int64_t N, int64_t frames, Range range, bool is_first, S* d_weight,
                                const WeightScratch<S, E>& scratch) {
  using V = typename Sh::V;
  constexpr int64_t C = Sh::kColumns;
  for (int64_t m0 = range.first; m0 < range.last; m0 += kBlockRows) {
    const int64_t rows = at_most(kBlockRows, range.last - m0);
    for (int64_t f0 = 0; f0 < frames; f0 += kBlockFrames) {
      const int64_t piece = at_most(kBlockFrames, frames - f0), steps = P::row_length(piece);
      const S* const from = gates + f0 * M + m0;
      if constexpr (P::kOnTiles) {
        gate_rows<V>(from, M, scratch.gates, steps, piece, rows);
      } else {
        gate_elements<V>(from, M, scratch.gates, piece, rows);
      }
      const auto multiply = [&](const E* panel, const S* init, S* out, int64_t stride) {
        if constexpr (P::kOnTiles) {
          const E* const first = scratch.gates;
          P::template multiply<Sh::kPlain>(rows, {&first}, piece, panel, init, stride, out, stride,
                                           nullptr);
        } else {
          const ColumnOperand<E> block{scratch.gates, kBlockRows};
          product<Sh::kPlain>(rows, block, steps, panel, init, stride, out, stride);
        }
      };
      const bool is_start = is_first && f0 == 0;
      for (int64_t q = 0; q * C < N; ++q) {
        const int64_t n = N - q * C;
        S* const to = d_weight + m0 * N + q * C;
        const E* panel = panels + (q * P::row_length(capacity) + P::row_length(f0)) * C;
        if (n >= C) {
          multiply(panel, is_start ? nullptr : to, to, N);
          continue;
        }
        if (!is_start) copy_columns<V>(to, N, scratch.block, C, rows, n);
        multiply(panel, is_start ? nullptr : scratch.block, scratch.block, C);
        copy_columns<V>(scratch.block, C, to, N, rows, n);
      }
    }
  }
}

// Columns first .. last - 1 of to (+)= the sum over frames of value(f, column, lanes that count).
// In blocks of frames, so that few roundings meet one large sum; several vectors side by side, so
// that lines of a frame that follow one another are read together.
template <int kVectors, class V, class Value>
FC_INLINE void add_columns(int64_t m, int64_t n, int64_t frames, bool is_first, const Value& value,
                           typename V::S* to) {
  using S = typename V::S;
  constexpr int64_t L = V::kLanes, kBlock = 32;
  V total[kVectors];
  FC_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    total[v] = is_first ? V(S(0)) : load_lanes<V>(to + m + v * L, n - v * L);
  }
  for (int64_t f0 = 0; f0 < frames; f0 += kBlock) {
    V sum[kVectors];
    FC_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[v] = V(S(0));
    for (int64_t f = f0; f < at_most(f0 + kBlock, frames); ++f) {
      FC_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] + value(f, m + v * L, n - v * L);
    }
    FC_UNROLL
    for (int v = 0; v < kVectors; ++v) total[v] = total[v] + sum[v];
  }
  FC_UNROLL
  for (int v = 0; v < kVectors; ++v) store_lanes(to + m + v * L, total[v], n - v * L);
}
template <class V, class Value>
FC_INLINE void add_over_frames(Range columns, int64_t frames, bool is_first, const Value& value,
                               typename V::S* to) {
  constexpr int kVectors = 8;
  constexpr int64_t L = V::kLanes;
  int64_t m = columns.first;
  for (; m + kVectors * L <= columns.last; m += kVectors * L) {
    add_columns<kVectors, V>(m, kVectors * L, frames, is_first, value, to);
  }
  for (; m < columns.last; m += L) {
    add_columns<1, V>(m, columns.last - m, frames, is_first, value, to);
  }
}

// Columns first .. last - 1 of d_bias (+)= the sum of the rows of gates [frames, M].
template <class Sh, class S = typename Sh::S>
inline void add_bias_gradient(const S* gates, int64_t M, int64_t frames, Range range, bool is_first,
                              S* d_bias) {
  using V = typename Sh::V;
  const auto gate = [=](int64_t f, int64_t m, int64_t n) {
    return load_lanes<V>(gates + f * M + m, n);
  };
  add_over_frames<V>(range, frames, is_first, gate, d_bias);
}

}  // namespace
}  // namespace fastcells
