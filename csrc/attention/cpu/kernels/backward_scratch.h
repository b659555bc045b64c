// What a thread holds on the way back of attention (backward.h): a block of queries, the tiles of a
// block of keys, and the gradients of the task's own keys.
#pragma once
#include "attention/cpu/kernels/additive_powers.h"

namespace fastcells {
namespace {

template <class Shape, bool kAdditive>
struct AttentionBackwardScratch {
  using S = typename Shape::S;
  static constexpr int P = Shape::P;
  static constexpr int64_t kKeys = Shape::kKeys, kQueries = Shape::kQueries;
  // From one key's row of a tile to the next: not a multiple of a cache's span.
  static constexpr int64_t kStride = kQueries + P;

  static int64_t padded(int64_t width) { return divide_up(width, P) * P; }
  static int64_t chunk_keys(const cpu::AttentionBackwardArgs& a) {
    return divide_up(divide_up(a.Tk, kKeys), a.key_chunks) * kKeys;
  }

  S* query;         // [panels][E][P], scaled
  S* query_rows;    // [kQueries][padded E], scaled
  S* d_output;      // [panels][Ev][P]
  S* d_rows;        // [kQueries][padded Ev]
  S* largest;       // [kQueries]; infinity for a query that sees nothing or is none
  S* log_sum;       // [kQueries]: with `largest` the logsumexp
  S* delta;         // [kQueries]
  S* output;        // [Ev][P]
  S* d_query;       // [panels][E][P]
  S* weights;       // [kKeys][kStride]
  S* d_scores;      // [kKeys][kStride]
  S* bias;          // [kKeys][P]
  S* factor;        // [kKeys][P]
  S* slope;         // [kKeys][P]
  S* grad_weights;  // [kKeys][P]
  S* key_copy;      // [kKeys][E]
  S* clean;         // [kKeys][E]: keys without what is not finite
  S* value_copy;    // [kKeys][Ev]
  S* d_key;         // [chunk][padded E]; of an additive score [chunk / 4][E][4]
  S* d_value;       // [chunk][padded Ev]
  S* d_units;       // [E][P]
  AdditivePowers<Shape> powers;
  std::size_t bytes;
  AttentionBackwardScratch(const cpu::AttentionBackwardArgs& a, char* base) {
    Arena arena{base};
    const int64_t tile = kKeys * P, chunk = chunk_keys(a);
    query = arena.take<S>(kQueries * a.E);
    query_rows = arena.take<S>(kQueries * padded(a.E));
    d_output = arena.take<S>(kQueries * a.Ev);
    d_rows = arena.take<S>(kQueries * padded(a.Ev));
    largest = arena.take<S>(kQueries), log_sum = arena.take<S>(kQueries);
    delta = arena.take<S>(kQueries), output = arena.take<S>(a.Ev * P);
    d_query = arena.take<S>(kQueries * a.E);
    weights = arena.take<S>(kKeys * kStride), d_scores = arena.take<S>(kKeys * kStride);
    bias = arena.take<S>(tile), factor = arena.take<S>(tile);
    slope = arena.take<S>(tile), grad_weights = arena.take<S>(tile);
    clean = arena.take<S>(kKeys * a.E);
    key_copy = arena.take<S>(kKeys * a.E), value_copy = arena.take<S>(kKeys * a.Ev);
    d_key = arena.take<S>(chunk * padded(a.E)), d_value = arena.take<S>(chunk * padded(a.Ev));
    if constexpr (kAdditive) d_units = arena.take<S>(a.E * P), powers.take(arena, a.E);
    bytes = arena.used;
  }
};

}  // namespace
}  // namespace fastcells
