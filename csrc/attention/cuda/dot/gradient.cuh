// What the ways back share: from two products to weights and gradients of scores, in the
// accumulators of a block, and the one product a row that all of them subtract.
//
//   delta_i = sum_e dO_ie O_ie + sum_j w_ij grad_weights_ij          (w: after dropout)
//   p_ij = e^(s_ij - logsumexp_i)     w_ij = f_ij p_ij                (f: dropout's factor)
//   d_s_ij = p_ij (f_ij (dO_i . v_j + grad_weights_ij) - delta_i)     of the masked score
//   d_qk_ij = d_s_ij (1 - tanh(...)^2)                                of scale * q.k, with a
//   softcap
#pragma once
#include "attention/cuda/dot/launch.h"
#include "attention/cuda/dot/scores.cuh"

namespace fastcells {

using cuda::AttentionBackwardArgs;

// Two tiles of own rows and two of the others: 97 KiB at most.
constexpr int backward_others(int bytes, int width) { return bytes * width <= 512 ? 32 : 16; }
constexpr int backward_stages(int bytes, int width) { return bytes * width <= 256 ? 2 : 1; }
constexpr int backward_row_warps(int bytes, int width) { return bytes * width <= 512 ? 4 : 2; }

template <class T, int kWidth, int kSplit>
using AttentionBackwardTraits = AttentionTraits<T, kWidth, 1, backward_others(sizeof(T), kWidth),
                                                backward_stages(sizeof(T), kWidth),
                                                backward_row_warps(sizeof(T), kWidth), kSplit>;
template <class T, int kWidth>
using QueryGradientTraits = AttentionBackwardTraits<T, kWidth, (kWidth > 128 ? 2 : 1)>;
// Two sums in registers, in the place of one.
template <class T, int kWidth>
using KeyGradientTraits =
    AttentionBackwardTraits<T, kWidth, (kWidth * sizeof(T) <= 256 ? 1 : kWidth * sizeof(T) / 256)>;

// A query of a tile as the columns of others have it: a RowReference, and delta.
constexpr int kQueryFloats = 4;

// Bytes from the front of shared memory.
template <class Traits>
struct BackwardShared {
  static constexpr int kOthers = 2 * Traits::kOwnPieces * 16;
  static constexpr int kQueries = kOthers + Traits::kStages * 2 * Traits::kOtherPieces * 16;
  static constexpr int kEnd = kQueries + Traits::kStages * Traits::kOthers * kQueryFloats * 4;
};

template <class Traits, bool kKeysOwn>
class AttentionGradient : protected AttentionScores<Traits, kKeysOwn> {
 protected:
  using Scores = AttentionScores<Traits, kKeysOwn>;
  using T = typename Traits::T;
  using typename Scores::Positions, typename Scores::Tile;
  static constexpr int M = Traits::M, N = Traits::N;
  static_assert(M == 1 && N <= 8);

  FC_DEVICE explicit AttentionGradient(const AttentionBackwardArgs& args)
      : Scores(args), args_(args), reader_(this->lane_) {
    using At = BackwardShared<Traits>;
    own_ = ptx::shared_array<uint4>(0, 2 * Traits::kOwnPieces);
    others_ = ptx::shared_array<uint4>(At::kOthers, Traits::kStages * 2 * Traits::kOtherPieces);
    queries_ =
        ptx::shared_array<float>(At::kQueries, Traits::kStages * Traits::kOthers * kQueryFloats);
  }
  FC_DEVICE ptx::Shared<uint4> own(int which) const { return own_ + which * Traits::kOwnPieces; }
  FC_DEVICE ptx::Shared<uint4> other(int stage, int which) const {
    return others_ + (stage * 2 + which) * Traits::kOtherPieces;
  }

  // Of query i.
  FC_DEVICE RowReference reference_of(std::int64_t head, std::int64_t i) const {
    return Scores::reference_of(args_.logsumexp, head, i);
  }
  FC_DEVICE float delta_of(std::int64_t head, std::int64_t i) const {
    return i < args_.Tq ? static_cast<const float*>(args_.delta)[head * args_.Tq + i] : 0.0f;
  }

  // s: in, q.k; out, weights after dropout. d: in, dO . v; out, the gradient of scale * q.k, or
  // with kMasked that of the masked score. What it needs of the queries of the four elements of
  // column tile n is what rows(n) returns.
  template <bool kMasked, class Rows>
  FC_DEVICE void finish(const Positions& at, std::int64_t i, std::int64_t j, const Rows& rows,
                        Tile& s, Tile& d) const {
    unsigned kept = ~0u;
    if (args_.grad_weights) add_grad_weights(at, i, j, d);
    if (this->a_.dropout.is_on) kept = draw(at, i, j, d);
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      const auto row = rows(n);
      FC_UNROLL
      for (int e = 0; e < 4; ++e) d[0][n][e] -= row.delta[e];
    }
    if (this->is_natural_) this->template make_natural<!kMasked>(s, d);
    this->hide(at, i, j, this->is_plain(at, i, j), s);
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      const auto row = rows(n);
      FC_UNROLL
      for (int e = 0; e < 4; ++e) {
        const RowReference& r = row.reference[e];
        const float shifted = this->is_natural_ ? s[0][n][e] - r.shift : s[0][n][e];
        const float p = ptx::power_of_two(shifted * this->unit_ - r.exponent);
        s[0][n][e] = p;
        d[0][n][e] = p > r.alone ? 0.0f : d[0][n][e] * p;
      }
    }
    if (!this->a_.dropout.is_on) return;
    Scores::each([&](int m, int n, int e) {
      s[m][n][e] *= kept >> (n * 4 + e) & 1 ? float(this->a_.dropout.keep_scale) : 0.0f;
    });
  }

  const AttentionBackwardArgs& args_;
  const TileReader<Traits> reader_;
  ptx::Shared<uint4> own_;      // [2][kOwn]
  ptx::Shared<uint4> others_;   // [kStages][2][kOthers]
  ptx::Shared<float> queries_;  // [kStages][kOthers][kQueryFloats]

 private:
  FC_DEVICE void add_grad_weights(const Positions& at, std::int64_t i, std::int64_t j,
                                  Tile& d) const {
    const T* const first =
        static_cast<const T*>(args_.grad_weights) + (at.slice() * args_.Tq + i) * args_.Tk + j;
    this->each_inside(i, j, args_.Tk, 1, [&](int m, int n, int e, std::int64_t element) {
      d[m][n][e] += float(first[element]);
    });
  }
  // Which elements dropout keeps, a bit each; d is multiplied by their factors.
  FC_DEVICE unsigned draw(const Positions& at, std::int64_t i, std::int64_t j, Tile& d) const {
    unsigned kept = 0;
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      float factor[4];
      this->dropout(at, i, j, 0, n, factor);
      FC_UNROLL
      for (int e = 0; e < 4; ++e) {
        d[0][n][e] *= factor[e];
        kept |= unsigned(factor[e] != 0.0f) << (n * 4 + e);
      }
    }
    return kept;
  }
};

// What finish() needs of the queries of four elements.
struct QueryValues {
  RowReference reference[4];
  float delta[4];
};

// ---- delta, but for its second sum ----

constexpr int kDeltaWarps = 4;

template <class T>
__global__ void __launch_bounds__(kDeltaWarps* kLanes)
    attention_delta_kernel(const __grid_constant__ AttentionBackwardArgs args) {
  const int lane = int(threadIdx.x) % kLanes, warp = int(threadIdx.x) / kLanes;
  const std::int64_t rows = args.B * args.N * args.Tq;
  for (std::int64_t r = std::int64_t(blockIdx.x) * kDeltaWarps + warp; r < rows;
       r += std::int64_t(gridDim.x) * kDeltaWarps) {
    const std::int64_t head = r / args.Tq, i = r % args.Tq;
    const auto row_of = [&](const HeadMatrix& m) {
      return static_cast<const T*>(m.data) + head / args.N * m.batch + head % args.N * m.head +
             i * m.row;
    };
    const T *const output = row_of(args.output), *const gradient = row_of(args.grad_output);
    float sum = 0;
    for (std::int64_t e = lane; e < args.Ev; e += kLanes)
      sum += float(output[e]) * float(gradient[e]);
    sum = warp_sum(sum);
    if (lane == 0) static_cast<float*>(args.delta)[r] = sum;
  }
}

}  // namespace fastcells
