// The one matrix product of the CPU engine: rows of A times a panel of packed weights.
//
//   out[i][j] = sum_k a[i][k] * panel[k][j] + init[i][j]         i < n rows, j < R vectors
//
// A panel is [k][R][lanes], one after another in memory, or R vectors of each row k of a matrix as
// it lies; an operand of A is broadcast. What stands at one k is an element: a number, or a pair or
// four of narrow ones whose products one instruction sums (Term). A panel of 16 bits is widened
// where it is loaded, or, where many rows read it, once for all. A tile of MR rows keeps MR*R
// accumulators in registers over all k: with 16 registers (AVX2) 3x4, 4x3, 6x2, with 32 (AVX512)
// 6x4, 8x3, 12x2. The order of a sum over k depends on the tile.
#pragma once
#include "cpu/simd/vector.h"

namespace fastcells {
namespace {

// Two bfloat16, of k and (in the upper half) k + 1; four bytes of k .. k + 3.
struct BFloat16Pair {
  std::uint32_t bits;
};
struct Int8Quad {
  std::uint32_t bits;
};

// Accumulators of a tile.
constexpr int kTileSums = kRegisters == 32 ? 24 : 12;

// An element E of A and of a panel: a vector of sums, and of factors; how many products a lane sums
// in one instruction.
template <class E>
struct Term {
  using Sum = Vector<E>;
  using Factor = Vector<E>;
  static constexpr int kProducts = 1, kSums = kTileSums;
  FC_INLINE static Factor spread(E x) { return Factor(x); }
  template <class P>
  FC_INLINE static Factor factor(const P* p) {
    return load(p);
  }
  FC_INLINE static void add(Sum& acc, Factor x, Factor w) { multiply_add(acc, x, w); }
};
template <>
struct Term<BFloat16Pair> {
  using Sum = Vector<float>;
  using Factor = Words;
  static constexpr int kProducts = Instructions::kHasDot16 ? 2 : 1, kSums = kTileSums;
  FC_INLINE static Factor spread(BFloat16Pair x) { return x.bits - Words{}; }
  FC_INLINE static Factor factor(const BFloat16Pair* p) { return load_words(p); }
  FC_INLINE static void add(Sum& acc, Factor x, Factor w) { Instructions::dot16(acc.v, x, w); }
};
// Bytes without a sign times bytes with one.
struct Counts {
  Bits v;
  Counts() = default;
  FC_INLINE explicit Counts(float) : v{} {}  // zeros
  FC_INLINE friend Counts operator+(Counts a, Counts b) {
    a.v += b.v;
    return a;
  }
};
template <>
struct Term<Int8Quad> {
  using Sum = Counts;
  using Factor = Words;
  // Without an instruction for it a product needs registers of its own.
  static constexpr int kProducts = Instructions::kHasDot8 ? 4 : 1;
  static constexpr int kSums = Instructions::kHasDot8 ? kTileSums : kTileSums * 2 / 3;
  FC_INLINE static Factor spread(Int8Quad x) { return x.bits - Words{}; }
  FC_INLINE static Factor factor(const Int8Quad* p) { return load_words(p); }
  FC_INLINE static void add(Sum& acc, Factor x, Factor w) { Instructions::dot8(acc.v, x, w); }
};

// Rows of a tile whose panel is R vectors wide.
template <class E, int R>
constexpr int kTileRows = Term<E>::kSums / R;

// Bytes of a panel that stay in the first-level cache while the rows pass over it.
constexpr std::int64_t kPanelBytes = 16 * 1024;

template <int R>
constexpr std::int64_t kPanelSteps = kPanelBytes / (R * kVectorBytes);

constexpr int kUnroll = 4;
// Lines of the next piece that a tile calls for every kUnroll steps: some tiles bring all of it
// into the second-level cache, where else the first of them would wait for memory.
constexpr int kAheadLines = kVectorBytes == 64 ? 2 : 1, kLine = 64;

// A as rows anywhere in memory: a[i][k] is row[i][k].
template <class E>
struct RowOperand {
  using Element = E;
  const E* const* row;
  template <int MR>
  struct Tile {
    const E* row[MR];
    FC_INLINE E at(int i, std::int64_t k) const { return row[i][k]; }
    FC_INLINE auto result(int, int, typename Term<E>::Sum sum) const { return sum; }
  };
  template <int MR>
  FC_INLINE Tile<MR> tile(std::int64_t i, std::int64_t k) const {
    Tile<MR> tile;
    FC_UNROLL
    for (int m = 0; m < MR; ++m) tile.row[m] = row[i + m] + k;
    return tile;
  }
};

// Rows of bytes: a sum counts in units of its row's scale times its column's.
struct QuantizedOperand {
  using Element = Int8Quad;
  const Int8Quad* const* row;
  const float* scale;
  const float* column_scale;  // of the panel
  template <int MR>
  struct Tile {
    const Int8Quad* row[MR];
    const float *scale, *column_scale;
    FC_INLINE Int8Quad at(int i, std::int64_t k) const { return row[i][k]; }
    FC_INLINE Vector<float> result(int i, int v, Counts sum) const {
      return scaled(sum, scale[i], column_scale + v * Vector<float>::kLanes);
    }
  };
  FC_INLINE static Vector<float> scaled(Counts sum, float scale, const float* column_scale) {
    const auto counts = Vector<float>::of(__builtin_convertvector(sum.v, Vector<float>::Native));
    return counts * (Vector<float>(scale) * Vector<float>::load(column_scale));
  }
  template <int MR>
  FC_INLINE Tile<MR> tile(std::int64_t i, std::int64_t k) const {
    Tile<MR> tile{{}, scale + i, column_scale};
    FC_UNROLL
    for (int m = 0; m < MR; ++m) tile.row[m] = row[i + m] + k;
    return tile;
  }
};

// A as the columns of a matrix: a[i][k] is first[k * stride + i].
template <class E>
struct ColumnOperand {
  using Element = E;
  const E* first;
  std::int64_t stride;
  template <int MR>
  using Tile = ColumnOperand;
  template <int MR>
  FC_INLINE ColumnOperand tile(std::int64_t i, std::int64_t k) const {
    return {first + k * stride + i, stride};
  }
  FC_INLINE E at(int i, std::int64_t k) const { return first[k * stride + i]; }
  FC_INLINE auto result(int, int, typename Term<E>::Sum sum) const { return sum; }
};

// A panel [k][R][lanes], packed.
template <class E, int R>
struct PackedPanel {
  static constexpr int kStep = R * kVectorBytes / int(sizeof(E));
  const E* first;
  FC_INLINE const E* at(std::int64_t k) const { return first + k * kStep; }
  FC_INLINE PackedPanel piece(std::int64_t k, std::int64_t) const { return {at(k)}; }
};
// The same in 16 bits. With many rows each piece is widened, once for all of them.
template <class T, int R>
struct NarrowPanel {
  static constexpr int kStep = R * kVectorBytes / int(sizeof(float));
  const T* first;
  FC_INLINE const T* at(std::int64_t k) const { return first + k * kStep; }
  FC_INLINE NarrowPanel piece(std::int64_t k, std::int64_t) const { return {at(k)}; }
};
template <class T, int R>
struct WidenedPanel : NarrowPanel<T, R> {
  float* wide;  // [kPanelSteps][R][lanes]
  FC_INLINE PackedPanel<float, R> piece(std::int64_t k, std::int64_t steps) const {
    const T* const from = this->at(k);
    for (std::int64_t j = 0; j < steps * this->kStep; j += Vector<float>::kLanes) {
      load(from + j).store(wide + j);
    }
    return {wide};
  }
};
// A panel whose rows lie `stride` apart.
template <class E, int R>
struct StridedPanel {
  const E* first;
  std::int64_t stride;
  FC_INLINE const E* at(std::int64_t k) const { return first + k * stride; }
  FC_INLINE StridedPanel piece(std::int64_t k, std::int64_t) const { return {at(k), stride}; }
};

// acc[i][v] += a[i][k] * panel[k][v]. Accumulators, the shorter side and one operand of the other
// just fit the registers.
template <int MR, int R, class E, class Tile, class P>
FC_INLINE void accumulate(const Tile& a, std::int64_t k, const P* panel,
                          typename Term<E>::Sum (&acc)[MR][R]) {
  using X = Term<E>;
  constexpr int L = kVectorBytes / int(sizeof(E));
  if constexpr (MR <= R) {
    typename X::Factor x[MR];
    FC_UNROLL
    for (int i = 0; i < MR; ++i) x[i] = X::spread(a.at(i, k));
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      const auto w = X::factor(panel + v * L);
      FC_UNROLL
      for (int i = 0; i < MR; ++i) X::add(acc[i][v], x[i], w);
    }
  } else {
    typename X::Factor w[R];
    FC_UNROLL
    for (int v = 0; v < R; ++v) w[v] = X::factor(panel + v * L);
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      const auto x = X::spread(a.at(i, k));
      FC_UNROLL
      for (int v = 0; v < R; ++v) X::add(acc[i][v], x, w[v]);
    }
  }
}

// Rows i .. i + MR - 1, over k .. k + K - 1; panel, init and out begin there. On the way some lines
// from `ahead` on are called for.
template <int MR, int R, class S, class Operand, class Panel>
__attribute__((noinline)) void product_tile(Operand a, std::int64_t i, std::int64_t k,
                                            std::int64_t K, Panel panel, const S* init,
                                            std::int64_t init_stride, S* out,
                                            std::int64_t out_stride, const char* ahead) {
  using E = typename Operand::Element;
  using V = Vector<S>;
  using Sum = typename Term<E>::Sum;
  constexpr int L = V::kLanes;
  // An accumulator waits 4 cycles for its last sum, and two can start a cycle: 8 must be under way.
  constexpr int kChains = MR * R >= 8 ? 1 : MR * R >= 3 ? 2 : 4;
  Sum acc[kChains][MR][R];
  FC_UNROLL
  for (int c = 0; c < kChains; ++c) {
    FC_UNROLL
    for (int m = 0; m < MR; ++m) {
      FC_UNROLL
      for (int v = 0; v < R; ++v) acc[c][m][v] = Sum(S(0));
    }
  }
  const auto tile = a.template tile<MR>(i, k);
  std::int64_t step = 0;
  for (; step + kUnroll <= K; step += kUnroll) {
    FC_UNROLL
    for (int c = 0; c < kUnroll; ++c)
      accumulate<MR, R, E>(tile, step + c, panel.at(step + c), acc[c % kChains]);
    FC_UNROLL
    for (int c = 0; c < kAheadLines; ++c, ahead += kLine) __builtin_prefetch(ahead, 0, 2);
  }
  for (; step < K; ++step) accumulate<MR, R, E>(tile, step, panel.at(step), acc[0]);
  FC_UNROLL
  for (int m = 0; m < MR; ++m) {
    FC_UNROLL
    for (int v = 0; v < R; ++v) {
      Sum total = acc[0][m][v];
      FC_UNROLL
      for (int c = 1; c < kChains; ++c) total = total + acc[c][m][v];
      // Added last: a large bias would round every sum on the way.
      V sum = tile.result(m, v, total);
      if (init) sum = sum + V::load(init + m * init_stride + v * L);
      sum.store(out + m * out_stride + v * L);
    }
  }
}

template <int MR, int R, class S, class Operand, class Panel>
FC_INLINE void product_tile_at_most(int rows, const Operand& a, std::int64_t i, std::int64_t k,
                                    std::int64_t K, const Panel& panel, const S* init,
                                    std::int64_t init_stride, S* out, std::int64_t out_stride,
                                    const char* ahead) {
  if (rows == MR) {
    product_tile<MR, R>(a, i, k, K, panel, init, init_stride, out, out_stride, ahead);
  } else if constexpr (MR > 1) {
    product_tile_at_most<MR - 1, R>(rows, a, i, k, K, panel, init, init_stride, out, out_stride,
                                    ahead);
  }
}

// All n rows of A times a panel of K elements. `init`: one row for all ([R*L], init_stride 0), a
// row each, or nullptr for zeros; it may be `out` itself. With many rows the panel is taken in
// pieces that stay in the cache. `next` is what will be wanted after this panel: as a rule what
// lies behind it.
template <int R, class S, class Operand, class Panel>
inline void product_of(std::int64_t n, Operand a, std::int64_t K, Panel panel, const S* init,
                       std::int64_t init_stride, S* out, std::int64_t out_stride,
                       const void* next) {
  constexpr int MR = kTileRows<typename Operand::Element, R>;
  if (n <= 0) return;
  const std::int64_t tiles = (n + MR - 1) / MR, least = n / tiles, longer = n % tiles;
  const std::int64_t piece = tiles > 2 || K == 0 ? kPanelSteps<R> : K;
  for (std::int64_t k = 0; k == 0 || k < K; k += piece) {
    const std::int64_t steps = K - k < piece ? K - k : piece;
    if (k > 0) init = out, init_stride = out_stride;
    const auto from = panel.piece(k, steps);
    const void* const following = k + steps < K ? panel.at(k + steps) : next;
    const char* ahead = static_cast<const char*>(following);
    std::int64_t i = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const int m = int(least + (tile < longer ? 1 : 0));
      product_tile_at_most<MR, R>(m, a, i, k, steps, from, init ? init + i * init_stride : nullptr,
                                  init_stride, out + i * out_stride, out_stride, ahead);
      i += m, ahead += steps / kUnroll * kAheadLines * kLine;
    }
  }
}
template <int R, class S, class E, class Operand>
inline void product(std::int64_t n, Operand a, std::int64_t K, const E* panel, const S* init,
                    std::int64_t init_stride, S* out, std::int64_t out_stride,
                    const void* next = nullptr) {
  const PackedPanel<E, R> packed{panel};
  product_of<R>(n, a, K, packed, init, init_stride, out, out_stride, next ? next : packed.at(K));
}
// The same for a panel of 16 bits.
template <int R, class T>
inline void narrow_product(std::int64_t n, RowOperand<float> a, std::int64_t K, const T* panel,
                           const float* init, std::int64_t init_stride, float* out,
                           std::int64_t out_stride, const void* next = nullptr) {
  const NarrowPanel<T, R> narrow{panel};
  if (!next) next = narrow.at(K);
  if (n <= 2 * kTileRows<float, R>) {
    return product_of<R>(n, a, K, narrow, init, init_stride, out, out_stride, next);
  }
  alignas(64) float wide[kPanelSteps<R> * narrow.kStep];
  product_of<R>(n, a, K, WidenedPanel<T, R>{{panel}, wide}, init, init_stride, out, out_stride,
                next);
}

}  // namespace
}  // namespace fastcells
