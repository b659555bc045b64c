// One tile of scores: keys are rows, the lanes of a panel are queries, so that softmax runs down
// the rows and needs no sum across lanes. What both ways share.
#pragma once
#include "attention/cpu/kernels/args.h"
#include "attention/position.h"
#include "cpu/simd/attention_product.h"
#include "cpu/simd/lane_sums.h"
#include "cpu/simd/philox_lanes.h"
#include "cpu/simd/transpose.h"
#include "math/online_softmax.h"

namespace fastcells {
namespace {

template <class T_, class S_>
struct AttentionShape {
  using T = T_;
  using S = S_;
  using V = Vector<S>;
  static constexpr int L = V::kLanes;
  static constexpr int R = 2;        // vectors of a panel
  static constexpr int P = R * L;    // queries of a panel
  static constexpr int kPanels = 4;  // panels that pass over a block of keys together
  static constexpr int kQueries = kPanels * P;
  static constexpr int64_t kKeys = 96;  // of a block: whole tiles of 6, 4 and 3 rows
  static constexpr S kNothing = -std::numeric_limits<S>::infinity();
};

// Keys first .. last - 1.
struct Keys {
  int64_t first, last;
  FC_INLINE bool is_empty() const { return first >= last; }
  FC_INLINE int64_t count() const { return first < last ? last - first : 0; }
  FC_INLINE Keys within(Keys other) const {
    return {first > other.first ? first : other.first, at_most(last, other.last)};
  }
};

// Queries i .. i + count - 1 of head n in batch row b.
struct Queries {
  int64_t b, n, i, count;
};

FC_INLINE Keys seen_by_some(const AttentionArgs& a, const Queries& q) {
  const KeyRange keys = seen_by_some(a, length_of(a, q.b), q.i, q.i + q.count);
  return {keys.first, keys.last};
}
FC_INLINE Keys seen_by_all(const AttentionArgs& a, const Queries& q) {
  const KeyRange keys = seen_by_all(a, length_of(a, q.b), q.i, q.i + q.count);
  return {keys.first, keys.last};
}

template <class T>
FC_INLINE const T* matrix_rows(const HeadMatrix& m, int64_t b, int64_t n, int64_t t) {
  return static_cast<const T*>(m.data) + b * m.batch + n * m.head + t * m.row;
}

// Rows of a matrix as arithmetic: as they lie where that serves, else copied to `copy`.
template <class T, class S>
FC_INLINE StridedRows<S> block_rows(const HeadMatrix& m, int64_t b, int64_t n, Keys keys,
                                    int64_t width, S* copy) {
  const T* const rows = matrix_rows<T>(m, b, n, keys.first);
  if constexpr (sizeof(T) == sizeof(S)) {
    if (m.row == width) return {rows, width};
  }
  for (int64_t j = 0; j < keys.count(); ++j) {
    for (int64_t e = 0; e < width; e += Vector<S>::kLanes) {
      const int64_t count = width - e;
      store_lanes(copy + j * width + e, load_lanes<Vector<S>>(rows + j * m.row + e, count), count);
    }
  }
  return {copy, width};
}

// The scores of one panel after a product, their mask and window, and what dropout keeps.
template <class Shape>
class ScorePanel {
 public:
  using T = typename Shape::T;
  using S = typename Shape::S;
  using V = typename Shape::V;
  static constexpr int L = Shape::L, R = Shape::R, P = Shape::P;

  // `bias` is scratch of [kKeys][P].
  ScorePanel(const AttentionArgs& a, const Queries& queries, S* bias)
      : a_(a), q_(queries), all_(seen_by_all(a, queries)), bias_(bias) {}

  // Makes scores [keys][stride] out of scaled products, in place: softcap, mask, window. Where
  // `slope` is given it takes the softcap's derivative. Returns the largest score of each query.
  void finish(Keys keys, S* scores, int64_t stride, S* slope, V (&largest)[R]) {
    const bool has_mask = a_.mask.kind != AttentionMask::Kind::kNone;
    if (a_.softcap > 0) cap(keys, scores, stride, slope);
    if (has_mask) add_mask(keys, scores, stride);
    const Keys plain = keys.within(all_);
    if (plain.count() < keys.count()) {
      const Keys before{keys.first, plain.is_empty() ? keys.last : plain.first};
      const Keys after{plain.is_empty() ? keys.last : plain.last, keys.last};
      cut_window(before, keys.first, scores, stride);
      cut_window(after, keys.first, scores, stride);
    }
    if (q_.count < P) hide_missing(keys.count(), scores, stride);
    FC_UNROLL
    for (int r = 0; r < R; ++r) largest[r] = V(Shape::kNothing);
    for (int64_t j = 0; j < keys.count(); ++j) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        largest[r] = larger(largest[r], V::load(scores + j * stride + r * L));
      }
    }
  }

  // factor [keys][P]: keep / (1 - p).
  void fill_dropout(Keys keys, S* factor) const {
    const auto seed = std::uint64_t(a_.dropout.seed[0]);
    const std::uint32_t head = std::uint32_t(q_.b * a_.N + q_.n);
    const auto threshold = std::uint32_t(a_.dropout.threshold);  // 0 where all is dropped: by 0
    for (int64_t j = keys.first; j < keys.last;) {
      const int64_t group_end = at_most(keys.last, (j / 4 + 1) * 4);
      std::uint32_t word[4][P];
      philox_lanes(seed, std::uint32_t(j / 4), std::uint32_t(q_.i), head, word);
      for (; j < group_end; ++j) {
        S* const to = factor + (j - keys.first) * P;
        for (int lane = 0; lane < P; ++lane) {
          to[lane] = word[j % 4][lane] >= threshold ? S(a_.dropout.keep_scale) : S(0);
        }
      }
    }
  }

 private:
  void cap(Keys keys, S* scores, int64_t stride, S* slope) {
    const V limit = V(S(a_.softcap)), inverse = V(S(1 / a_.softcap));
    for (int64_t j = 0; j < keys.count(); ++j) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        S* const p = scores + j * stride + r * L;
        const V t = tanh(V::load(p) * inverse);
        (limit * t).store(p);
        if (slope) (V(S(1)) - t * t).store(slope + j * P + r * L);
      }
    }
  }

  // A false or an infinitely low mask takes the score's place, whatever the score.
  void add_mask(Keys keys, S* scores, int64_t stride) {
    switch (a_.mask.kind) {
      case AttentionMask::Kind::kBool: load_mask<bool>(keys); break;
      case AttentionMask::Kind::kAddedWide: load_mask<S>(keys); break;
      default: load_mask<T>(keys);
    }
    const V lowest = V(std::numeric_limits<S>::lowest());
    for (int64_t j = 0; j < keys.count(); ++j) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        S* const p = scores + j * stride + r * L;
        const V bias = V::load(bias_ + j * P + r * L);
        select(bias < lowest, bias, V::load(p) + bias).store(p);
      }
    }
  }

  template <class M>
  void load_mask(Keys keys) {
    const auto& m = a_.mask;
    const M* const first = static_cast<const M*>(m.data) + q_.b * m.batch + q_.n * m.head +
                           q_.i * m.query + keys.first * m.key;
    if (m.query != 0 && m.key != 0) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        const int64_t rows = q_.count - r * L;
        const M* const from = rows > 0 ? first + r * L * m.query : first;
        rows_to_lanes(from, m.query, rows, keys.count(), bias_ + r * L, P, S(1));
      }
      return;
    }
    V row[R];
    for (int64_t j = 0; j < keys.count(); ++j) {
      if (j == 0 || m.key != 0) {
        FC_UNROLL
        for (int r = 0; r < R; ++r) row[r] = mask_lanes(first + j * m.key, r * L);
      }
      FC_UNROLL
      for (int r = 0; r < R; ++r) row[r].store(bias_ + j * P + r * L);
    }
  }
  // The mask of one key for a vector of queries; no query's is read twice.
  template <class M>
  V mask_lanes(const M* first, int lane) const {
    S lanes[L];
    for (int i = 0; i < L; ++i) {
      const int64_t query = lane + i < q_.count ? lane + i : 0;
      lanes[i] = load_edge(first + query * a_.mask.query, 1, S()).v[0];
    }
    return V::load(lanes);
  }

  void cut_window(Keys keys, int64_t tile_first, S* scores, int64_t stride) {
    const V nothing = V(Shape::kNothing);
    for (int64_t j = keys.first; j < keys.last; ++j) {
      // In lanes: the first and the last query that see the key.
      const int64_t diagonal = j - q_.i - a_.offset;
      const V from = V(S(a_.right >= 0 ? clamp(diagonal - a_.right) : 0));
      const V to = V(S(a_.left >= 0 ? clamp(diagonal + a_.left) : P));
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        S* const p = scores + (j - tile_first) * stride + r * L;
        const V lane = lane_numbers(r * L);
        const V seen = select(lane < from, nothing, V::load(p));
        select(to < lane, nothing, seen).store(p);
      }
    }
  }
  // Lanes past the last query are no queries and see nothing: a key that every query is hidden from
  // may hold NaN, and their product with it would be NaN.
  void hide_missing(int64_t count, S* scores, int64_t stride) const {
    const V nothing = V(Shape::kNothing), end = V(S(q_.count));
    for (int64_t j = 0; j < count; ++j) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        S* const p = scores + j * stride + r * L;
        select(lane_numbers(r * L) < end, V::load(p), nothing).store(p);
      }
    }
  }
  FC_INLINE static int64_t clamp(int64_t lane) { return lane < -1 ? -1 : at_most(lane, P); }
  FC_INLINE static V lane_numbers(int first) {
    V lane;
    FC_UNROLL
    for (int i = 0; i < L; ++i) lane.v[i] = S(first + i);
    return lane;
  }

  const AttentionArgs& a_;
  const Queries q_;
  const Keys all_;
  S* const bias_;
};

}  // namespace
}  // namespace fastcells
