// How panels keep a layer's weights, and the product of rows with them: one structure for each way.
//
//   WholePanels<S>    S, as the arithmetic is                        rows of S
//   NarrowPanels<T>   16 bits, widened where they are loaded         rows of float
//   PairPanels        bfloat16 in pairs of k                         rows rounded to bfloat16
//   QuadPanels        int8 in fours of k; a scale for each column    rows as bytes, a scale each
//
// (and the last two on tiles: tile_panels.h). A panel is [k][R][lanes] elements, zeros past the
// last k and column. Where rows are not of the arithmetic type they are converted in front of the
// product (kConverts), each thread its own.
#pragma once
#include "cpu/simd/product.h"
#include "cpu/simd/transpose.h"

namespace fastcells {
namespace {

// The rows of one product. Quantized ones are scale * byte + least.
template <class E>
struct PanelRows {
  const E* const* row;
  const float *scale = nullptr, *least = nullptr;
};

// A structure whose products run on vectors, each of its rows anywhere in memory.
struct VectorPanels {
  static constexpr bool kOnTiles = false;
  // As many times the products a second that the plan expects of one instruction a cycle.
  static constexpr int kSpeed = 1;
  static FC_INLINE void release() {}  // what a thread holds that has multiplied
};

template <class S_>
struct WholePanels : VectorPanels {
  using S = S_;
  using Weight = S;
  using Row = S;
  static constexpr bool kConverts = false;
  static FC_INLINE int64_t row_length(int64_t K) { return K; }
  template <int R>
  static FC_INLINE int64_t bytes(int64_t K) {
    return K * R * kVectorBytes;
  }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<S> rows, int64_t K, const void* panel,
                                 const S* init, int64_t init_stride, S* out, int64_t out_stride,
                                 const void* next) {
    product<R>(n, RowOperand<S>{rows.row}, K, static_cast<const S*>(panel), init, init_stride, out,
               out_stride, next);
  }
};

template <class T>
struct NarrowPanels : VectorPanels {
  using S = float;
  using Weight = T;
  using Row = float;
  static constexpr bool kConverts = false;
  static FC_INLINE int64_t row_length(int64_t K) { return K; }
  template <int R>
  static FC_INLINE int64_t bytes(int64_t K) {
    return K * R * kVectorBytes / 2;
  }
  // Steps k .. k + steps - 1 of a panel, from floats [steps][R][lanes].
  template <int R>
  static FC_INLINE void put(const float* piece, int64_t k, int64_t steps, void* panel) {
    constexpr int64_t kStep = R * Vector<float>::kLanes;
    T* const to = static_cast<T*>(panel) + k * kStep;
    for (int64_t j = 0; j < steps * kStep; j += Vector<float>::kLanes) {
      store(to + j, load(piece + j));
    }
  }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<float> rows, int64_t K, const void* panel,
                                 const float* init, int64_t init_stride, float* out,
                                 int64_t out_stride, const void* next) {
    narrow_product<R>(n, RowOperand<float>{rows.row}, K, static_cast<const T*>(panel), init,
                      init_stride, out, out_stride, next);
  }
};

FC_INLINE Words pairs_of(Vector<float> low, Vector<float> high) {
  return round_to_bfloat16(low) | round_to_bfloat16(high) << 16;
}
FC_INLINE void store_pairs(BFloat16Pair* to, Vector<float> low, Vector<float> high) {
  const Words both = pairs_of(low, high);
  std::memcpy(to, &both, sizeof both);
}

// Rows and panels have a multiple of kStep pairs, zeros past the last k.
template <int kStep>
struct PairPanelsIn : VectorPanels {
  using S = float;
  using Weight = BFloat16Bits;
  using Row = BFloat16Pair;
  static constexpr bool kConverts = true;
  static FC_INLINE int64_t row_length(int64_t K) { return divide_up(K, 2 * kStep) * kStep; }
  template <int R>
  static FC_INLINE int64_t bytes(int64_t K) {
    return row_length(K) * R * kVectorBytes;
  }
  // As above; k is a multiple of 2 * kStep, and so is every `steps` but the last.
  template <int R>
  static FC_INLINE void put(const float* piece, int64_t k, int64_t steps, void* panel) {
    constexpr int64_t L = Vector<float>::kLanes, kColumns = R * L;
    for (int64_t s = 0; s < 2 * row_length(steps); s += 2) {
      auto* const to = static_cast<BFloat16Pair*>(panel) + (k + s) / 2 * kColumns;
      for (int64_t j = 0; j < kColumns; j += L) {
        const auto at = [&](int64_t step) {
          return step < steps ? load(piece + step * kColumns + j) : Vector<float>(0.0f);
        };
        store_pairs(to + j, at(s), at(s + 1));
      }
    }
  }
  template <class T>
  static FC_INLINE void convert(const T* row, int64_t K, BFloat16Pair* to, float*, float*) {
    constexpr int64_t L = Vector<float>::kLanes;
    auto* const halves = reinterpret_cast<BFloat16Bits*>(to);
    for (int64_t k = 0; k < K; k += L) {
      store_lanes(halves + k, load_lanes<Vector<float>>(row + k, K - k), K - k);
    }
    for (int64_t k = K; k < 2 * row_length(K); ++k) halves[k].bits = 0;
  }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<Row> rows, int64_t K, const void* panel,
                                 const float* init, int64_t init_stride, float* out,
                                 int64_t out_stride, const void* next) {
    product<R>(n, RowOperand<Row>{rows.row}, divide_up(K, 2), static_cast<const Row*>(panel), init,
               init_stride, out, out_stride, next);
  }
};
using PairPanels = PairPanelsIn<1>;

// In front of the elements of a panel: [2][R][lanes] floats, each column's scale, and the sum of
// its weights. Rows and panels have a multiple of kStep fours, zeros past the last k of a panel.
template <int kStep>
struct QuadPanelsIn : VectorPanels {
  using S = float;
  using Weight = std::int8_t;
  using Row = Int8Quad;
  static constexpr bool kConverts = true;
  static FC_INLINE int64_t row_length(int64_t K) { return divide_up(K, 4 * kStep) * kStep; }
  template <int R>
  static FC_INLINE int64_t bytes(int64_t K) {
    return (2 + row_length(K)) * R * kVectorBytes;
  }
  // Columns j of the panel, or nothing where columns[j] is nullptr: K weights and their scale.
  template <int R>
  static void pack(const std::int8_t* const* columns, const float* scales, int64_t K, void* panel) {
    constexpr int64_t kColumns = R * Vector<float>::kLanes;
    float* const scale = static_cast<float*>(panel);
    auto* const quads = reinterpret_cast<std::int8_t*>(scale + 2 * kColumns);
    std::memset(panel, 0, bytes<R>(K));
    for (int64_t j = 0; j < kColumns; ++j) {
      if (!columns[j]) continue;
      std::int64_t sum = 0;
      for (int64_t k = 0; k < K; ++k) {
        sum += columns[j][k];
        quads[(k / 4 * kColumns + j) * 4 + k % 4] = columns[j][k];
      }
      scale[j] = scales[j], scale[kColumns + j] = scales[j] * float(sum);
    }
  }
  // row = scale * byte + least, the bytes 0 .. 255 over the row's own range; NaN throughout where
  // the row holds NaN or infinity.
  static FC_INLINE void convert(const float* row, int64_t K, Int8Quad* to, float* scale,
                                float* least) {
    using V = Vector<float>;
    constexpr int64_t L = V::kLanes;
    *scale = *least = 0;
    if (K == 0) return;
    float few[L];  // a row shorter than a vector, its first element to the end
    if (K < L) {
      for (int64_t i = 0; i < L; ++i) few[i] = row[i < K ? i : 0];
    }
    const float* const from = K < L ? few : row;
    V low = load(from), high = low, poison(0.0f);
    for (int64_t k = 0; k < K; k += L) {
      const V x = load(from + (k + L <= K || K < L ? k : K - L));  // the last ones twice
      low = select(x < low, x, low), high = select(x > high, x, high);
      poison = poison + (x - x);
    }
    float lowest = low.v[0], highest = high.v[0], sum = 0;
    for (int i = 0; i < L; ++i) {
      lowest = low.v[i] < lowest ? low.v[i] : lowest;
      highest = high.v[i] > highest ? high.v[i] : highest;
      sum += poison.v[i];
    }
    *scale = (highest - lowest) / 255.0f + sum, *least = lowest;
    const V factor(*scale > 1e-36f ? 1.0f / *scale : 0.0f), shift(lowest);
    const int64_t bytes = 4 * divide_up(K, 4);
    std::memset(reinterpret_cast<char*>(to) + bytes, 0, std::size_t(4 * row_length(K) - bytes));
    for (int64_t k = 0; k < bytes; k += L) {
      const V x = k + L <= K ? load(row + k) : load_first(row + k, int(K - k));
      // The nearest integer, in the lowest bits of the sum.
      const Words counts = (Words)((x - shift) * factor + V(polynomial::kRound)).v;
      typedef std::uint8_t Bytes __attribute__((vector_size(kVectorBytes / 4)));
      const Bytes narrow = __builtin_convertvector(counts, Bytes);
      std::memcpy(reinterpret_cast<char*>(to) + k, &narrow, std::size_t(at_most(L, bytes - k)));
    }
  }
  template <int R>
  static FC_INLINE void multiply(int64_t n, PanelRows<Row> rows, int64_t K, const void* panel,
                                 const float* init, int64_t init_stride, float* out,
                                 int64_t out_stride, const void* next) {
    start_sums<R>(n, rows, panel, init, init_stride, out, out_stride);
    product<R>(n, QuantizedOperand{rows.row, rows.scale, static_cast<const float*>(panel)},
               divide_up(K, 4), quads<R>(panel), out, out_stride, out, out_stride, next);
  }

 protected:
  template <int R>
  static FC_INLINE const Row* quads(const void* panel) {
    return static_cast<const Row*>(panel) + 2 * R * Vector<float>::kLanes;
  }
  // What the least values of the rows give, and init.
  template <int R>
  static FC_INLINE void start_sums(int64_t n, PanelRows<Row> rows, const void* panel,
                                   const float* init, int64_t init_stride, float* out,
                                   int64_t out_stride) {
    using V = Vector<float>;
    constexpr int64_t kColumns = R * V::kLanes;
    const float* const sums = static_cast<const float*>(panel) + kColumns;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < kColumns; j += V::kLanes) {
        const V shift = V(rows.least[i]) * load(sums + j);
        store(out + i * out_stride + j, init ? shift + load(init + i * init_stride + j) : shift);
      }
    }
  }
};
using QuadPanels = QuadPanelsIn<1>;

}  // namespace
}  // namespace fastcells
