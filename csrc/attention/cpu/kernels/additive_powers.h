// What an additive pass keeps beside its blocks: their exponentials, and how far they reach.
#pragma once
#include "attention/cpu/kernels/additive.h"
#include "attention/cpu/kernels/tile.h"

namespace fastcells {
namespace {

template <class Shape>
class AdditivePowers {
  using S = typename Shape::S;
  using Score = Additive<S>;
  using Reach = typename Score::Reach;
  static constexpr int P = Shape::P;

 public:
  void take(Arena& arena, int64_t D) {
    query_ = arena.take<S>(Shape::kQueries * D);
    key_ = arena.take<S>(Shape::kKeys * D);
    key_reach_ = arena.take<Reach>(Shape::kKeys);
  }
  // Panel p, [D][P].
  void take_queries(int p, const S* lanes, int64_t D) {
    query_reach_[p] = Score::powers(lanes, D * P, query_ + p * D * P);
  }
  void take_keys(StridedRows<S> keys, int64_t count, int64_t D) {
    for (int64_t j = 0; j < count; ++j) {
      key_reach_[j] = Score::powers(keys.first + j * keys.stride, D, key_ + j * D);
    }
    Score::pad(count, D, key_, key_reach_);
  }
  // The keys are those that were taken, from the first on.
  Score score(const AttentionArgs& a, int p, const S* query, StridedRows<S> keys,
              int64_t count) const {
    return {a.E,
            static_cast<const S*>(a.units),
            query,
            query_ + p * a.E * P,
            query_reach_[p],
            keys,
            key_,
            key_reach_,
            count};
  }

 private:
  S* query_;          // [panels][D][P]
  S* key_;            // [kKeys][D]
  Reach* key_reach_;  // [kKeys]
  Reach query_reach_[Shape::kPanels] = {};
};

}  // namespace
}  // namespace fastcells
