// The gradient of a mask that was added to the scores, on CUDA: of the masked scores' gradient, the
// sum over what the mask is broadcast along.
//
// A block owns a tile of the mask, or one row or column or element where its queries or keys are
// broadcast, and passes over all tiles of scores that have it, which it computes again and adds up
// in registers: a sum in a fixed order, and no scores in memory.
#pragma once
#include "attention/cuda/dot/gradient.cuh"

namespace fastcells {

template <class T, int kWidth>
using MaskGradientTraits = AttentionBackwardTraits<T, kWidth, 1>;

// Tiles of scores along each dimension: what the mask has, or what it is broadcast along.
struct MaskTiles {
  std::int64_t batch, head, query, key;

  FC_HD static MaskTiles of(const AttentionArgs& a, int queries, int keys) {
    return {a.B, a.N, tile_count(a.Tq, queries), tile_count(a.Tk, keys)};
  }
  FC_HD MaskTiles kept(const AttentionMask& m) const {
    return {m.batch ? batch : 1, m.head ? head : 1, m.query ? query : 1, m.key ? key : 1};
  }
  FC_HD std::int64_t count() const { return batch * head * query * key; }
};

template <class Traits>
class AttentionMaskGradient : AttentionGradient<Traits, false> {
  using Gradient = AttentionGradient<Traits, false>;
  using typename Gradient::Positions, typename Gradient::T, typename Gradient::Tile;
  static constexpr int kOwn = Traits::kOwn, kOthers = Traits::kOthers;
  using Gradient::args_, Gradient::other, Gradient::own, Gradient::reader_, Gradient::row;

 public:
  FC_DEVICE explicit AttentionMaskGradient(const AttentionBackwardArgs& args)
      : Gradient(args), tiles_(MaskTiles::of(args, kOwn, kOthers)) {
    const MaskTiles kept = tiles_.kept(args.mask);
    std::int64_t block = blockIdx.x;
    place_.key = block % kept.key, block /= kept.key;
    place_.query = block % kept.query, block /= kept.query;
    place_.head = block % kept.head, place_.batch = block / kept.head;
    Gradient::each([&](int m, int n, int e) { sum_[m][n][e] = 0; });
  }

  FC_DEVICE void run() {
    const AttentionMask& m = args_.mask;
    // Along a dimension that the mask has, the one tile of this block.
    const auto each_of = [](bool is_kept, std::int64_t own, std::int64_t count, const auto& f) {
      const std::int64_t end = is_kept ? own + 1 : count;
      FC_ROLLED
      for (std::int64_t i = is_kept ? own : 0; i < end; ++i) f(i);
    };
    each_of(m.batch != 0, place_.batch, tiles_.batch, [&](std::int64_t b) {
      each_of(m.head != 0, place_.head, tiles_.head, [&](std::int64_t n) {
        const Positions at(args_, b, n);
        each_of(m.query != 0, place_.query, tiles_.query, [&](std::int64_t q) {
          each_of(m.key != 0, place_.key, tiles_.key, [&](std::int64_t k) {
            add(at, unsigned(b), unsigned(n), q * kOwn, k * kOthers);
          });
        });
      });
    });
    store();
  }

 private:
  FC_DEVICE void add(const Positions& at, unsigned b, unsigned n, std::int64_t i, std::int64_t j) {
    const KeyRange seen = this->seen_by_tile(at, i), queries{0, args_.Tq};
    if (seen.first >= j + kOthers || seen.last <= j) return;
    const unsigned kv_head = key_head(args_, n);
    __syncthreads();  // all are done with the tiles before
    load_tile<Traits, kOwn>(own(0), HeadRows<T>(args_.query, b, n, args_.E), i, queries);
    load_tile<Traits, kOwn>(own(1), HeadRows<T>(args_.grad_output, b, n, args_.Ev), i, queries);
    load_tile<Traits, kOthers>(other(0, 0), key_rows<T>(args_, args_.key, b, kv_head, args_.E), j,
                               seen);
    load_tile<Traits, kOthers>(other(0, 1), key_rows<T>(args_, args_.value, b, kv_head, args_.Ev),
                               j, seen);
    ptx::commit_copies();
    QueryValues values;
    FC_UNROLL
    for (int e = 0; e < 4; ++e) {
      values.reference[e] = this->reference_of(at.slice(), i + row(0, e));
      values.delta[e] = this->delta_of(at.slice(), i + row(0, e));
    }
    ptx::wait_copies<0>();
    __syncthreads();
    Tile s, d;
    reader_.multiply_rows(own(0), this->warp_row_, other(0, 0), s);
    reader_.multiply_rows(own(1), this->warp_row_, other(0, 1), d);
    this->template finish<true>(at, i, j, [&](int) { return values; }, s, d);
    Gradient::each([&](int m, int n_, int e) { sum_[m][n_][e] += d[m][n_][e]; });
  }

  // By way of shared memory: rows and columns that are one element of the mask are added up there.
  FC_DEVICE void store() const {
    static_assert(kOwn * kOthers * 4 <= BackwardShared<Traits>::kOthers);
    const AttentionMask& m = args_.mask;
    const auto sums = ptx::shared_cast<float>(own(0));
    __syncthreads();
    Gradient::each([&](int t, int n, int e) {
      sums[row(t, e) * kOthers + this->column(n, e)] = sum_[t][n][e];
    });
    __syncthreads();
    const int rows = m.query ? kOwn : 1, columns = m.key ? kOthers : 1;
    const std::int64_t i = place_.query * kOwn, j = place_.key * kOthers;
    float* const to = static_cast<float*>(args_.d_mask) + place_.batch * m.batch +
                      place_.head * m.head + i * m.query + j * m.key;
    FC_ROLLED
    for (int x = int(threadIdx.x); x < rows * columns; x += Traits::kThreads) {
      const int r = x / columns, c = x % columns;
      if ((m.query && i + r >= args_.Tq) || (m.key && j + c >= args_.Tk)) continue;
      float sum = 0;
      FC_ROLLED
      for (int y = r; y < (m.query ? r + 1 : kOwn); ++y) {
        FC_ROLLED
        for (int z = c; z < (m.key ? c + 1 : kOthers); ++z) sum += sums[y * kOthers + z];
      }
      to[r * m.query + c * m.key] = sum;
    }
  }

  const MaskTiles tiles_;
  MaskTiles place_;  // of this block: 0 along what is broadcast
  Tile sum_;
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 2)
    attention_mask_gradient_kernel(const __grid_constant__ AttentionBackwardArgs args) {
  AttentionMaskGradient<Traits>(args).run();
}

}  // namespace fastcells
