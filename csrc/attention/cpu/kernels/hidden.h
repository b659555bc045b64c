// Rows of a block of keys or values that are not finite. Where a mask or a window hides such a row
// from a query its weight is 0, and must take nothing of it, though 0 * NaN is NaN: the products
// get zeros in its place, and what some query does see of it is added by itself.
#pragma once
#include "attention/cpu/kernels/tile.h"

namespace fastcells {
namespace {

template <class Shape>
class HiddenRows {
  using T = typename Shape::T;
  using S = typename Shape::S;
  using V = typename Shape::V;
  static constexpr int L = Shape::L, R = Shape::R, P = Shape::P;

 public:
  // Whether some of the queries do not see some of the keys.
  static bool may_hide(const AttentionArgs& a, const Queries& q, Keys block) {
    const Keys all = seen_by_all(a, q);
    return a.mask.kind != AttentionMask::Kind::kNone || block.first < all.first ||
           block.last > all.last;
  }

  // The rows of a block with zeros for those that are not finite; these go to `copy`.
  StridedRows<S> take_out(StridedRows<S> rows, int64_t count, int64_t width, S* copy) {
    count_ = 0;
    for (int64_t j = 0; j < count; ++j) {
      if (!is_finite(rows.first + j * rows.stride, width)) place_[count_++] = j;
    }
    if (count_ == 0) return rows;
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t e = 0; e < width; ++e) copy[j * width + e] = rows.first[j * rows.stride + e];
    }
    for (int i = 0; i < count_; ++i) {
      for (int64_t e = 0; e < width; ++e) copy[place_[i] * width + e] = S(0);
    }
    return {copy, width};
  }

  // output [width][P] += weight row, of rows first .. last - 1 that were taken out, where the
  // weight, of weights [keys][P] from `first` on, is not 0.
  void add(Keys rows_of_block, StridedRows<S> rows, int64_t width, const S* weights,
           S* output) const {
    for (int i = 0; i < count_; ++i) {
      const int64_t j = place_[i];
      if (j < rows_of_block.first || j >= rows_of_block.last) continue;
      for (int64_t e = 0; e < width; ++e) {
        const V value(rows.first[j * rows.stride + e]);
        FC_UNROLL
        for (int r = 0; r < R; ++r) {
          const V weight = V::load(weights + (j - rows_of_block.first) * P + r * L);
          S* const to = output + e * P + r * L;
          (V::load(to) + unless_zero(weight, weight * value)).store(to);
        }
      }
    }
  }

 private:
  static bool is_finite(const S* row, int64_t width) {
    V sum(S(0));
    for (int64_t e = 0; e < width; e += L) {
      const V x = load_lanes<V>(row + e, width - e);
      sum = sum + (x - x);
    }
    return sum_of(sum) == S(0);
  }

  int count_ = 0;
  int64_t place_[Shape::kKeys];
};

}  // namespace
}  // namespace fastcells
