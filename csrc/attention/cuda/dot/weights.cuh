// A second look at the weights on CUDA, now that their sum is known: a block owns a tile of queries
// and passes over the keys.
//
//   forward   weights [B, N, Tq, Tk] out, after dropout, zeros where a query does not see a key
//   backward  delta += sum_j w_ij grad_weights_ij
#pragma once
#include "attention/cuda/dot/launch.h"
#include "attention/cuda/dot/scores.cuh"

namespace fastcells {

template <class T, int kWidth>
using AttentionWeightsTraits =
    AttentionTraits<T, kWidth, 1, 32, kWidth * sizeof(T) <= 512 ? 2 : 1, 4, 1>;

template <class Traits>
constexpr std::size_t attention_weights_shared() {
  return std::size_t(Traits::kOwnPieces + Traits::kStages * Traits::kOtherPieces) * 16;
}

// What is written to, or read and summed up, in the place of each other.
struct AttentionWeightsArgs : AttentionArgs {
  const void* logsumexp;     // A [B, N, Tq, 2]
  void* weights;             // T [B, N, Tq, Tk] out, or nullptr
  const void* grad_weights;  // T [B, N, Tq, Tk], or nullptr
  void* delta;               // A [B, N, Tq], added to, where grad_weights is given
};

template <class Traits>
class AttentionWeights : AttentionScores<Traits, false> {
  using Scores = AttentionScores<Traits, false>;
  using T = typename Traits::T;
  using typename Scores::Tile;
  static constexpr int N = Traits::N, kOwn = Traits::kOwn, kOthers = Traits::kOthers;
  static_assert(Traits::M == 1);
  using Scores::lane_, Scores::row, Scores::column;

 public:
  FC_DEVICE explicit AttentionWeights(const AttentionWeightsArgs& args)
      : Scores(args),
        args_(args),
        place_(place_of(args.N, args.Tq, kOwn)),
        at_(args, place_.b, place_.n),
        reader_(lane_) {
    seen_ = this->seen_by_tile(at_, place_.first);
    first_ = at_.slice() * args.Tq + place_.first;
    query_ = ptx::shared_array<uint4>(0, Traits::kOwnPieces);
    others_ =
        ptx::shared_array<uint4>(Traits::kOwnPieces * 16, Traits::kStages * Traits::kOtherPieces);
    for (int h = 0; h < 2; ++h) {
      reference_[h] = this->reference_of(args.logsumexp, at_.slice(), place_.first + row(0, 2 * h));
    }
  }

  FC_DEVICE void run() {
    const HeadRows<T> queries(args_.query, place_.b, place_.n, args_.E);
    const auto keys = key_rows<T>(args_, args_.key, place_.b, key_head(args_, place_.n), args_.E);
    load_tile<Traits, kOwn>(query_, queries, place_.first, {0, args_.Tq});
    // All keys: those that no query sees have weights, too, of zero.
    const auto load = [&](int i, int stage) {
      load_tile<Traits, kOthers>(tile(stage), keys, std::int64_t(i) * kOthers, seen_);
    };
    const auto use = [&](int i, int stage) { take(std::int64_t(i) * kOthers, stage); };
    pass_over<Traits::kStages>(int(tile_count(args_.Tk, kOthers)), load, [](int) {}, use);
    if (args_.grad_weights) add_to_delta();
  }

 private:
  FC_DEVICE ptx::Shared<uint4> tile(int stage) const {
    return others_ + stage * Traits::kOtherPieces;
  }

  FC_DEVICE void take(std::int64_t j, int stage) {
    Tile s;
    reader_.multiply_rows(query_, this->warp_row_, tile(stage), s);
    if (this->is_natural_) this->template make_natural<false>(s, s);
    this->hide(at_, place_.first, j, this->is_plain(at_, place_.first, j), s);
    Scores::each([&](int m, int n, int e) {
      const RowReference& r = reference_[e / 2];
      s[m][n][e] = ptx::power_of_two((s[m][n][e] - r.shift) * this->unit_ - r.exponent);
    });
    this->drop(at_, place_.first, j, s);
    if (args_.weights) {
      store(j, s);
    } else {
      sum_up(j, s);
    }
  }

  FC_DEVICE void store(std::int64_t j, const Tile& s) const {
    const int left = int(args_.Tk - j < kOthers ? args_.Tk - j : kOthers);
    FC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int r = row(0, 2 * h);
      if (place_.first + r >= args_.Tq) continue;
      T* const to = static_cast<T*>(args_.weights) + (first_ + r) * args_.Tk + j;
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        store_pair(to, column(n, 0), left, s[0][n][2 * h], s[0][n][2 * h + 1], args_.Tk % 2 == 0);
      }
    }
  }
  FC_DEVICE void sum_up(std::int64_t j, const Tile& s) {
    const T* const first = static_cast<const T*>(args_.grad_weights) + first_ * args_.Tk + j;
    this->each_inside(place_.first, j, args_.Tk, 1, [&](int m, int n, int e, std::int64_t at) {
      const float w = s[m][n][e];
      if (w != 0.0f) sum_[e / 2] += w * float(first[at]);
    });
  }
  FC_DEVICE void add_to_delta() {
    FC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float sum = Scores::row_sum(sum_[h]);
      const int r = row(0, 2 * h);
      if (lane_ % 4 == 0 && place_.first + r < args_.Tq) {
        static_cast<float*>(args_.delta)[first_ + r] += sum;
      }
    }
  }

  const AttentionWeightsArgs& args_;
  const BlockPlace place_;
  const typename Scores::Positions at_;
  const TileReader<Traits> reader_;
  KeyRange seen_;
  std::int64_t first_;         // row of the tile, of all heads
  ptx::Shared<uint4> query_;   // [kOwn]
  ptx::Shared<uint4> others_;  // [kStages][kOthers], of the keys
  RowReference reference_[2];  // of rows g and g + 8
  float sum_[2] = {0, 0};
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 4)
    attention_weights_kernel(const __grid_constant__ AttentionWeightsArgs args) {
  AttentionWeights<Traits>(args).run();
}

}  // namespace fastcells
