// Attention backward on CUDA, with respect to queries and to keys and values. Nothing is shared
// between blocks, so every result is a sum in a fixed order; scores are computed again in each of
// the kernels.
//
//   queries   a block owns a tile of queries, and passes over the keys that they see:
//               s = q k^T, d = dO v^T, d_s; d_q += d_s k
//   keys      a block owns a tile of keys of one key head, and passes over the queries that see
//             them, of every head that reads it. Keys are rows, so that weights and d_s are
//             operands as they lie:
//               s = k q^T, d = v dO^T, d_s; d_v += w dO, d_k += d_s q
//             Past a width of 128 registers hold one of d_k and d_v, which are kernels of their
//             own.
#pragma once
#include "attention/cuda/dot/gradient.cuh"

namespace fastcells {

template <class Traits>
class AttentionQueryGradient : AttentionGradient<Traits, false> {
  using Gradient = AttentionGradient<Traits, false>;
  using typename Gradient::T, typename Gradient::Tile;
  static constexpr int kOwn = Traits::kOwn, kOthers = Traits::kOthers;
  using Gradient::args_, Gradient::other, Gradient::own, Gradient::reader_, Gradient::row;

 public:
  FC_DEVICE explicit AttentionQueryGradient(const AttentionBackwardArgs& args)
      : Gradient(args), place_(place_of(args.N, args.Tq, kOwn)), at_(args, place_.b, place_.n) {
    seen_ = this->seen_by_tile(at_, place_.first);
    FC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const std::int64_t i = place_.first + row(0, 2 * h);
      reference_[h] = this->reference_of(at_.slice(), i),
      delta_[h] = this->delta_of(at_.slice(), i);
    }
  }

  FC_DEVICE void run() {
    const unsigned b = place_.b, kv_head = key_head(args_, place_.n);
    const int first = int(seen_.first / kOthers);
    const int tiles = int(tile_count(seen_.last, kOthers)) - first;
    const auto load = [&](int i, int stage) {
      const auto keys = key_rows<T>(args_, args_.key, b, kv_head, args_.E);
      const auto values = key_rows<T>(args_, args_.value, b, kv_head, args_.Ev);
      const std::int64_t j = std::int64_t(first + i) * kOthers;
      load_tile<Traits, kOthers>(other(stage, 0), keys, j, seen_);
      load_tile<Traits, kOthers>(other(stage, 1), values, j, seen_);
    };
    const auto use = [&](int i, int stage) { take(std::int64_t(first + i) * kOthers, stage); };
    if (tiles > 0) {
      const KeyRange all{0, args_.Tq};
      load_tile<Traits, kOwn>(own(0), HeadRows<T>(args_.query, b, place_.n, args_.E), place_.first,
                              all);
      load_tile<Traits, kOwn>(own(1), HeadRows<T>(args_.grad_output, b, place_.n, args_.Ev),
                              place_.first, all);
      pass_over<Traits::kStages>(tiles, load, [](int) {}, use);
    }
    T* const to = static_cast<T*>(args_.d_query) + at_.slice() * args_.Tq * args_.E;
    store_rows<T>(d_query_[0], to, place_.first + this->warp_row_, args_.Tq, int(args_.E),
                  this->part_, {this->scale_, this->scale_});
  }

 private:
  FC_DEVICE void take(std::int64_t j, int stage) {
    Tile s, d;
    reader_.multiply_rows(own(0), this->warp_row_, other(stage, 0), s);
    reader_.multiply_rows(own(1), this->warp_row_, other(stage, 1), d);
    const auto rows = [&](int) {
      return QueryValues{{reference_[0], reference_[0], reference_[1], reference_[1]},
                         {delta_[0], delta_[0], delta_[1], delta_[1]}};
    };
    this->template finish<false>(at_, place_.first, j, rows, s, d);
    reader_.multiply_weights(d, other(stage, 0), this->part_, d_query_);
  }

  const BlockPlace place_;
  const typename Gradient::Positions at_;
  KeyRange seen_;
  RowReference reference_[2];  // of rows g and g + 8
  float delta_[2];
  float d_query_[1][Traits::kColumns][4] = {};
};

template <class Traits>
class AttentionKeyGradient : AttentionGradient<Traits, true> {
  using Gradient = AttentionGradient<Traits, true>;
  using typename Gradient::Positions, typename Gradient::T, typename Gradient::Tile;
  static constexpr int kOwn = Traits::kOwn, kOthers = Traits::kOthers;
  using Gradient::args_, Gradient::lane_, Gradient::other, Gradient::own, Gradient::reader_;

 public:
  FC_DEVICE explicit AttentionKeyGradient(const AttentionBackwardArgs& args)
      : Gradient(args), place_(place_of(args.Nk, args.Tk, kOwn)) {}

  FC_DEVICE void run() {
    const unsigned b = place_.b;
    const Positions at(args_, b, 0);
    // Keys that no query sees stay out: they may hold anything, and rows past Tq look at them, too.
    const KeyRange keys = at.seen_by_some(0, args_.Tq), queries = seeing(at.length());
    const unsigned heads = unsigned(args_.N) / unsigned(args_.Nk);
    first_tile_ = queries.first / kOthers;
    head_tiles_ = int(tile_count(queries.last, kOthers) - first_tile_);
    if (head_tiles_ > 0) {
      load_tile<Traits, kOwn>(own(0), key_rows<T>(args_, args_.key, b, place_.n, args_.E),
                              place_.first, keys);
      load_tile<Traits, kOwn>(own(1), key_rows<T>(args_, args_.value, b, place_.n, args_.Ev),
                              place_.first, keys);
      pass_over<Traits::kStages>(
          int(heads) * head_tiles_, [&](int i, int stage) { load(i, stage); },
          [&](int stage) { settle(stage); }, [&](int i, int stage) { take(i, stage); });
    }
    const std::int64_t row = place_.first + this->warp_row_;
    const std::int64_t head = (std::int64_t(b) * args_.Nk + place_.n) * args_.Tk;
    store_rows<T>(d_key_[0], static_cast<T*>(args_.d_key) + head * args_.E, row, args_.Tk,
                  int(args_.E), this->part_, {this->scale_, this->scale_});
    store_rows<T>(d_value_[0], static_cast<T*>(args_.d_value) + head * args_.Ev, row, args_.Tk,
                  int(args_.Ev), this->part_, {1.0f, 1.0f});
  }

 private:
  // The queries that see some of the keys.
  FC_DEVICE KeyRange seeing(std::int64_t length) const {
    const std::int64_t own_end = place_.first + kOwn, end = own_end < length ? own_end : length;
    if (end <= place_.first) return {0, 0};
    KeyRange range{0, args_.Tq};
    if (args_.right >= 0) {
      const std::int64_t first = place_.first - args_.offset - args_.right;
      if (first > 0) range.first = first;
    }
    if (args_.left >= 0) {
      const std::int64_t last = end - args_.offset + args_.left;
      if (last < range.last) range.last = last;
    }
    return range.last > range.first ? range : KeyRange{0, 0};
  }
  // Tile i of the pass: all tiles of one head, then those of the next.
  FC_DEVICE unsigned head_of(int i) const {
    return place_.n * (unsigned(args_.N) / unsigned(args_.Nk)) + unsigned(i / head_tiles_);
  }
  FC_DEVICE std::int64_t query_of(int i) const { return (first_tile_ + i % head_tiles_) * kOthers; }

  FC_DEVICE void load(int i, int stage) {
    const unsigned b = place_.b, n = head_of(i);
    const std::int64_t first = query_of(i);
    const KeyRange all{0, args_.Tq};
    load_tile<Traits, kOthers>(other(stage, 0), HeadRows<T>(args_.query, b, n, args_.E), first,
                               all);
    load_tile<Traits, kOthers>(other(stage, 1), HeadRows<T>(args_.grad_output, b, n, args_.Ev),
                               first, all);
    if (int(threadIdx.x) < kOthers) {
      const std::int64_t slice = std::int64_t(b) * args_.N + n;
      reference_ = this->reference_of(slice, first + threadIdx.x);
      delta_ = this->delta_of(slice, first + threadIdx.x);
    }
  }
  FC_DEVICE void settle(int stage) {
    if (int(threadIdx.x) >= kOthers) return;
    const auto to = this->queries_ + (stage * kOthers + int(threadIdx.x)) * kQueryFloats;
    to[0] = reference_.shift, to[1] = reference_.exponent, to[2] = reference_.alone;
    to[3] = delta_;
  }

  FC_DEVICE void take(int i, int stage) {
    Tile s, d;
    reader_.multiply_rows(own(0), this->warp_row_, other(stage, 0), s);
    reader_.multiply_rows(own(1), this->warp_row_, other(stage, 1), d);
    const auto values =
        ptx::shared_cast<float4>(this->queries_ + stage * kOthers * kQueryFloats) + lane_ % 4 * 2;
    const auto rows = [&](int n) {  // of the two queries of a lane's columns
      const float4 v = values[8 * n], w = values[8 * n + 1];
      const RowReference first{v.x, v.y, v.z}, second{w.x, w.y, w.z};
      return QueryValues{{first, second, first, second}, {v.w, w.w, v.w, w.w}};
    };
    const Positions at(args_, place_.b, head_of(i));
    this->template finish<false>(at, query_of(i), place_.first, rows, s, d);
    reader_.multiply_weights(s, other(stage, 1), this->part_, d_value_);
    reader_.multiply_weights(d, other(stage, 0), this->part_, d_key_);
  }

  const BlockPlace place_;
  std::int64_t first_tile_ = 0;  // of queries, of those that see some key
  int head_tiles_ = 0;
  RowReference reference_{};  // of one query of the tile that is under way
  float delta_ = 0;
  float d_key_[1][Traits::kColumns][4] = {};
  float d_value_[1][Traits::kColumns][4] = {};
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads)
    attention_query_gradient_kernel(const __grid_constant__ AttentionBackwardArgs args) {
  AttentionQueryGradient<Traits>(args).run();
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads)
    attention_key_gradient_kernel(const __grid_constant__ AttentionBackwardArgs args) {
  AttentionKeyGradient<Traits>(args).run();
}

}  // namespace fastcells
