// Attention forward on CUDA: a block owns a tile of queries of one head and passes over the keys
// with a running softmax (Dao, 2023, arXiv 2307.08691).
//
//   grid: tiles of queries x heads x batch rows.  A tile of keys, per warp:
//     s = q k^T              accumulators [16 kTiles queries][kOthers keys]
//     softcap, mask, window  in place; most tiles need none of it
//     p = 2^(s - maximum)    in place; what was summed up before is scaled down
//     o += p v               p is an operand as it lies: no shared memory between the products
#pragma once
#include "attention/cuda/dot/scores.cuh"

namespace fastcells {

// Shared memory leaves room for two blocks on a multiprocessor of 227 KiB.
constexpr int forward_tiles(int bytes, int width) { return bytes == 2 && width <= 128 ? 2 : 1; }
constexpr int forward_others(int bytes, int width) { return bytes * width <= 512 ? 32 : 16; }
constexpr int forward_stages(int bytes, int width) { return bytes * width <= 512 ? 2 : 1; }

template <class T, int kWidth>
using AttentionForwardTraits =
    AttentionTraits<T, kWidth, forward_tiles(sizeof(T), kWidth), forward_others(sizeof(T), kWidth),
                    forward_stages(sizeof(T), kWidth), 4, (kWidth > 128 ? 2 : 1)>;

template <class Traits>
constexpr std::size_t attention_forward_shared() {
  return std::size_t(Traits::kOwnPieces + 2 * Traits::kStages * Traits::kOtherPieces) * 16;
}

template <class Traits>
class AttentionForward : AttentionScores<Traits, false> {
  using Scores = AttentionScores<Traits, false>;
  using T = typename Traits::T;
  using typename Scores::Tile;
  static constexpr int M = Traits::M, N = Traits::N, kColumns = Traits::kColumns;
  static constexpr int kOwn = Traits::kOwn, kOthers = Traits::kOthers;
  using Scores::kNothing, Scores::lane_, Scores::row, Scores::unit_;

 public:
  FC_DEVICE explicit AttentionForward(const AttentionForwardArgs& args)
      : Scores(args),
        args_(args),
        place_(place_of(args.N, args.Tq, kOwn)),
        at_(args, place_.b, place_.n),
        reader_(lane_) {
    seen_ = this->seen_by_tile(at_, place_.first);
    query_ = ptx::shared_array<uint4>(0, Traits::kOwnPieces);
    others_ = ptx::shared_array<uint4>(Traits::kOwnPieces * 16,
                                       2 * Traits::kStages * Traits::kOtherPieces);
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int h = 0; h < 2; ++h) max_[m][h] = kNothing, sum_[m][h] = 0;
    }
  }

  FC_DEVICE void run() {
    const unsigned kv_head = key_head(args_, place_.n);
    const int first = int(seen_.first / kOthers);
    const int tiles = int(tile_count(seen_.last, kOthers)) - first;
    const auto load = [&](int i, int stage) {
      const auto keys = key_rows<T>(args_, args_.key, place_.b, kv_head, args_.E);
      const auto values = key_rows<T>(args_, args_.value, place_.b, kv_head, args_.Ev);
      const std::int64_t j = std::int64_t(first + i) * kOthers;
      load_tile<Traits, kOthers>(tile(stage, 0), keys, j, seen_);
      load_tile<Traits, kOthers>(tile(stage, 1), values, j, seen_);
    };
    const auto use = [&](int i, int stage) { take(std::int64_t(first + i) * kOthers, stage); };
    if (tiles > 0) {
      load_tile<Traits, kOwn>(query_, HeadRows<T>(args_.query, place_.b, place_.n, args_.E),
                              place_.first, {0, args_.Tq});
      pass_over<Traits::kStages>(tiles, load, [](int) {}, use);
    }
    store();
  }

 private:
  FC_DEVICE ptx::Shared<uint4> tile(int stage, int which) const {
    return others_ + (stage * 2 + which) * Traits::kOtherPieces;
  }

  FC_DEVICE void take(std::int64_t j, int stage) {
    Tile s;
    reader_.multiply_rows(query_, this->warp_row_, tile(stage, 0), s);
    if (this->is_natural_) this->template make_natural<false>(s, s);
    this->hide(at_, place_.first, j, this->is_plain(at_, place_.first, j), s);
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int h = 0; h < 2; ++h) exponentials(m, h, s[m]);
    }
    this->drop(at_, place_.first, j, s);
    reader_.multiply_weights(s, tile(stage, 1), this->part_, output_);
  }

  // Scores of row h of tile m become 2^(score - maximum), and go into the lane's part of the sum.
  FC_DEVICE void exponentials(int m, int h, float (&s)[N][4]) {
    float piece = kNothing;
    FC_UNROLL
    for (int n = 0; n < N; ++n) piece = fmaxf(piece, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    piece = fmaxf(piece, __shfl_xor_sync(~0u, piece, 1));
    piece = fmaxf(piece, __shfl_xor_sync(~0u, piece, 2));
    const float before = max_[m][h];
    max_[m][h] = fmaxf(piece, before);
    const float reference = max_[m][h] == kNothing ? 0.0f : max_[m][h];
    const float factor = ptx::power_of_two((before - reference) * unit_);
    // Numbers as low as a mask's have no exponent of two: the maximum is taken away before.
    const float away = this->is_natural_ ? reference : 0.0f;
    const float shift = this->is_natural_ ? 0.0f : -reference * unit_;
    sum_[m][h] *= factor;
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int e = 2 * h; e < 2 * h + 2; ++e) {
        s[n][e] = ptx::power_of_two((s[n][e] - away) * unit_ + shift);
        sum_[m][h] += s[n][e];
      }
    }
    FC_UNROLL
    for (int c = 0; c < kColumns; ++c)
      output_[m][c][2 * h] *= factor, output_[m][c][2 * h + 1] *= factor;
  }

  FC_DEVICE void store() {
    const std::int64_t head = at_.slice() * args_.Tq;
    T* const to = static_cast<T*>(args_.output) + head * args_.Ev;
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      float factor[2];
      FC_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float sum = Scores::row_sum(sum_[m][h]);
        factor[h] = sum <= 0.0f ? 0.0f : 1.0f / sum;
        const std::int64_t i = place_.first + row(m, 2 * h);
        if (lane_ % 4 == 0 && this->part_ == 0 && i < args_.Tq) {
          float* const parts = static_cast<float*>(args_.logsumexp) + 2 * (head + i);
          parts[0] = this->is_natural_ ? max_[m][h] : max_[m][h] * this->scale_;
          parts[1] = sum <= 0.0f ? 0.0f : logf(sum);
        }
      }
      store_rows<T>(output_[m], to, place_.first + this->warp_row_ + 16 * m, args_.Tq,
                    int(args_.Ev), this->part_, factor);
    }
  }

  const AttentionForwardArgs& args_;
  const BlockPlace place_;
  const typename Scores::Positions at_;
  const TileReader<Traits> reader_;
  KeyRange seen_;
  ptx::Shared<uint4> query_;     // [kOwn]
  ptx::Shared<uint4> others_;    // [kStages][key, value][kOthers]
  float max_[M][2], sum_[M][2];  // of rows g and g + 8; a lane's part of the sum
  float output_[M][kColumns][4] = {};
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads)
    attention_forward_kernel(const __grid_constant__ AttentionForwardArgs args) {
  AttentionForward<Traits>(args).run();
}

}  // namespace fastcells
