// One tile of scores in the accumulators of a block: softcap, masks, window and lengths, dropout.
//
// Own rows are queries, or with kKeysOwn keys; the others are columns. A lane has of tile (m, n)
// rows g and g + 8 and columns 2 * t and 2 * t + 1: element e is row g + e / 2 * 8, column
// 2 * t + e % 2.
//
// Scores are products q.k, of which `unit` makes exponents of two. Where more is done to them than
// to hide keys, they are first made natural: softcap * tanh(scale * q.k / softcap) + mask.
#pragma once
#include "attention/cuda/dot/tile.cuh"

namespace fastcells {

constexpr float kLog2E = 1.44269504f;

// Query i's logsumexp as p = 2^((s - shift) unit - exponent) takes it. Natural scores may be as low
// as a mask makes them and have no exponent of two, so that the largest of them is taken away
// first; of others `shift` is 0.
struct RowReference {
  float shift, exponent;
  // What only a weight can have beside which nothing is left for others: its gradient is 0.
  float alone;
};

// Query i and key j of a tile, both from its first on, see each other iff
// low <= j - i <= high and j < length.
struct TileWindow {
  int low, high, length;
  FC_DEVICE bool contains(int i, int j) const {
    return j - i >= low && j - i <= high && j < length;
  }
};

template <class Traits, bool kKeysOwn>
class AttentionScores {
 public:
  static constexpr int M = Traits::M, N = Traits::N;
  using T = typename Traits::T;
  using Tile = float[M][N][4];
  using Positions = AttentionPositions<T, float>;

  FC_DEVICE explicit AttentionScores(const AttentionArgs& args)
      : a_(args),
        lane_(int(threadIdx.x) % kLanes),
        warp_row_(int(threadIdx.x) / kLanes % Traits::kRowWarps * 16 * M),
        part_(int(threadIdx.x) / kLanes / Traits::kRowWarps),
        scale_(float(args.scale)),
        is_natural_(args.softcap > 0 || args.mask.kind == AttentionMask::Kind::kAdded ||
                    args.mask.kind == AttentionMask::Kind::kAddedWide || !(args.scale > 0)),
        unit_(is_natural_ ? kLog2E : scale_ * kLog2E) {}

  // ---- where the lane's elements are ----

  FC_DEVICE int row(int m, int e) const { return warp_row_ + 16 * m + lane_ / 4 + e / 2 * 8; }
  FC_DEVICE int column(int n, int e) const { return 8 * n + lane_ % 4 * 2 + e % 2; }
  FC_DEVICE int query(int m, int n, int e) const { return kKeysOwn ? column(n, e) : row(m, e); }
  FC_DEVICE int key(int m, int n, int e) const { return kKeysOwn ? row(m, e) : column(n, e); }
  // f(m, n, e) for all of them.
  template <class F>
  FC_DEVICE static void each(const F& f) {
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        FC_UNROLL
        for (int e = 0; e < 4; ++e) f(m, n, e);
      }
    }
  }
  // f(m, n, e, at) for those that exist, of the tile whose first query is i and first key j; `at`
  // is where they are in an array with the strides of the mask or the weights, from the tile's
  // first element on. Made by steps: products of 64 bits take registers.
  template <class F>
  FC_DEVICE void each_inside(std::int64_t i, std::int64_t j, std::int64_t query_stride,
                             std::int64_t key_stride, const F& f) const {
    const int queries = bounded(a_.Tq - i), keys = bounded(a_.Tk - j);
    const std::int64_t row_stride = kKeysOwn ? key_stride : query_stride;
    const std::int64_t column_stride = kKeysOwn ? query_stride : key_stride;
    std::int64_t at = row(0, 0) * row_stride + column(0, 0) * column_stride;
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int side = 0; side < 2; ++side) {
        FC_UNROLL
        for (int m = 0; m < M; ++m) {
          FC_UNROLL
          for (int e = side; e < 4; e += 2) {
            const bool is_inside = query(m, n, e) < queries && key(m, n, e) < keys;
            if (is_inside) f(m, n, e, at + (16 * m + e / 2 * 8) * row_stride);
          }
        }
        at += (side == 0 ? 1 : 7) * column_stride;
      }
    }
  }

  // The keys that some query of a tile sees, as far as window and lengths go.
  FC_DEVICE KeyRange seen_by_tile(const Positions& at, std::int64_t i) const {
    return at.seen_by_some(i, end_of_queries(i));
  }
  // Whether all queries of a tile see all its keys, as far as window and lengths go.
  FC_DEVICE bool is_plain(const Positions& at, std::int64_t i, std::int64_t j) const {
    constexpr int kKeys = kKeysOwn ? Traits::kOwn : Traits::kOthers;
    const KeyRange all = at.seen_by_all(i, end_of_queries(i));
    return j >= all.first && j + kKeys <= all.last;
  }

  // ---- what is done to scores, in this order ----

  // Products to natural scores; `gradient` is multiplied by the slope on the way.
  template <bool kSlope>
  FC_DEVICE void make_natural(Tile& s, Tile& gradient) const {
    if (a_.softcap > 0) {
      const float cap = float(a_.softcap), inverse = scale_ / cap;
      each([&](int m, int n, int e) {
        const float y = tanh(s[m][n][e] * inverse);
        s[m][n][e] = cap * y;
        if constexpr (kSlope) gradient[m][n][e] *= tanh_grad(y);
      });
    } else {
      each([&](int m, int n, int e) { s[m][n][e] *= scale_; });
    }
  }
  // Minus infinity where a query does not see a key.
  FC_DEVICE void hide(const Positions& at, std::int64_t i, std::int64_t j, bool is_plain,
                      Tile& s) const {
    if (a_.mask.kind != AttentionMask::Kind::kNone) {
      const std::int64_t first = at.mask_at(i, j);
      each_inside(i, j, a_.mask.query, a_.mask.key, [&](int m, int n, int e, std::int64_t to) {
        s[m][n][e] = at.masked_at(s[m][n][e], first + to);
      });
    }
    if (is_plain) return;
    const TileWindow window = window_of(at, i, j);
    each([&](int m, int n, int e) {
      if (!window.contains(query(m, n, e), key(m, n, e))) s[m][n][e] = kNothing;
    });
  }

  // Dropout's factors of elements 0 .. 3 of tile (m, n). Four lanes or two share what four
  // neighbouring keys have, and share the work; all lanes of a warp take part.
  FC_DEVICE void dropout(const Positions& at, std::int64_t i, std::int64_t j, int m, int n,
                         float (&factor)[4]) const {
    float own[4];
    if constexpr (kKeysOwn) {  // lane p of four draws element p of all
      const int p = lane_ / 4 % 4, key_0 = warp_row_ + 16 * m + (lane_ / 4 & 4) + p / 2 * 8;
      at.dropout_factors(i + column(n, p), (j + key_0) / 4, own);
      float got[4] = {pick(own, p), 0, 0, 0};
      FC_UNROLL
      for (int d = 1; d < 4; ++d) got[d] = __shfl_xor_sync(~0u, pick(own, p ^ d), 4 * d);
      FC_UNROLL
      for (int e = 0; e < 4; ++e) factor[e] = pick(got, p ^ e);
    } else {  // the even lane draws for its row g, the odd one for g + 8
      const bool is_odd = lane_ % 2 != 0;
      at.dropout_factors(i + row(m, is_odd ? 2 : 0), (j + 8 * n) / 4 + lane_ % 4 / 2, own);
      const float got_0 = __shfl_xor_sync(~0u, is_odd ? own[0] : own[2], 1);
      const float got_1 = __shfl_xor_sync(~0u, is_odd ? own[1] : own[3], 1);
      factor[0] = is_odd ? got_0 : own[0], factor[1] = is_odd ? got_1 : own[1];
      factor[2] = is_odd ? own[2] : got_0, factor[3] = is_odd ? own[3] : got_1;
    }
  }

  // The tile times dropout's factors, if there is dropout.
  FC_DEVICE void drop(const Positions& at, std::int64_t i, std::int64_t j, Tile& s) const {
    if (!a_.dropout.is_on) return;
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        float factor[4];
        dropout(at, i, j, m, n, factor);
        FC_UNROLL
        for (int e = 0; e < 4; ++e) s[m][n][e] *= factor[e];
      }
    }
  }

  // ---- rows ----

  // The sum over the four lanes that share a row.
  FC_DEVICE static float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    x += __shfl_xor_sync(~0u, x, 2);
    return x;
  }
  // The exponent is infinite where query i sees nothing or is none, so that its weights are zero.
  FC_DEVICE RowReference reference_of(const void* logsumexp, std::int64_t slice,
                                      std::int64_t i) const {
    if (i >= a_.Tq) return {0.0f, -kNothing, 2.0f};
    const float* const parts = static_cast<const float*>(logsumexp) + 2 * (slice * a_.Tq + i);
    const float largest = parts[0], log_sum = parts[1];
    if (largest == kNothing) return {0.0f, -kNothing, 2.0f};
    const float alone = log_sum == 0.0f ? 0.5f : 2.0f;
    if (is_natural_) return {largest, log_sum * kLog2E, alone};
    return {0.0f, (largest + log_sum) * kLog2E, alone};
  }

  static constexpr float kNothing = -std::numeric_limits<float>::infinity();

  const AttentionArgs& a_;
  const int lane_, warp_row_, part_;  // of kSplit parts of the columns
  const float scale_;
  const bool is_natural_;
  const float unit_;  // times a score is an exponent of two

 private:
  FC_DEVICE std::int64_t end_of_queries(std::int64_t i) const {
    constexpr int kQueries = kKeysOwn ? Traits::kOthers : Traits::kOwn;
    return i + kQueries < a_.Tq ? i + kQueries : a_.Tq;
  }
  static constexpr int kBound = 1 << 20;  // more than a tile has rows
  FC_DEVICE static int bounded(std::int64_t x) {
    return int(x < -kBound ? -kBound : x > kBound ? kBound : x);
  }
  FC_DEVICE TileWindow window_of(const Positions& at, std::int64_t i, std::int64_t j) const {
    const std::int64_t diagonal = a_.offset + i - j;
    return {a_.left < 0 ? -kBound : bounded(diagonal - a_.left),
            a_.right < 0 ? kBound : bounded(diagonal + a_.right), bounded(at.length() - j)};
  }
  FC_DEVICE static float pick(const float (&x)[4], int which) {
    return which & 2 ? (which & 1 ? x[3] : x[2]) : (which & 1 ? x[1] : x[0]);
  }
};

// Query heads read key head n / (N / Nk).
FC_DEVICE unsigned key_head(const AttentionArgs& a, unsigned n) {
  return n / (unsigned(a.N) / unsigned(a.Nk));
}

// Of a grid of one dimension: the tile of this block, last one first (with a causal window it has
// the most to do), its head and its batch row.
struct BlockPlace {
  unsigned b, n;
  std::int64_t first;  // row of the tile
};
FC_DEVICE BlockPlace place_of(std::int64_t heads, std::int64_t rows, int tile_rows) {
  const unsigned tiles = unsigned(tile_count(rows, tile_rows)), head = blockIdx.x / tiles;
  const unsigned tile = tiles - 1 - blockIdx.x % tiles;
  return {head / unsigned(heads), head % unsigned(heads), std::int64_t(tile) * tile_rows};
}

}  // namespace fastcells
