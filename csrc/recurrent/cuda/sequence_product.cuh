// The product of a step: W_hh, which stays where it is, times what was exchanged.
//
//   sums [16 rows of W_hh, 8 batch rows] of each tile, by mma.sync, all units of the layer K
//
// Rows of a tile are two halves of eight; what they are, and what a column is, the two ways say
// themselves. A step over K is 64 bytes of a row. Lane l has of both operands the 16 bytes
// l % 4 of it, of rows l / 4 and l / 4 + 8 of W_hh and of batch row l / 4: the order of K inside a
// step is ours to choose, as long as both operands have it.
//
// The first kCached steps of a warp lie in registers, the others in shared memory, 16 bytes a lane.
// Warps of one group of units divide K among them, and the first of them adds up.
//
// float32 is three products of TF32 (cuda/tf32.cuh).
#pragma once
#include "cuda/tf32.cuh"
#include "recurrent/cuda/sequence_block.cuh"

namespace fastcells {

// Rows l / 4 and l / 4 + 8 of a tile, over one step.
struct WeightFragment {
  uint4 low, high;
};

// chains[0] + chains[1] += a b, over half a step: a of rows l / 4 and l / 4 + 8, two words each.
template <class T>
FC_DEVICE void multiply_half(float (&chain_0)[4], float (&chain_1)[4], bool is_second,
                             const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (sizeof(T) == 2) {
    ptx::mma_m16n8k16<T>(is_second ? chain_1 : chain_0, a, b);
  } else {
    unsigned a_high[4], a_low[4], b_high[2], b_low[2];
    FC_UNROLL
    for (int i = 0; i < 4; ++i) {
      const SplitWord s = split(a[i]);
      a_high[i] = s.high, a_low[i] = s.low;
    }
    FC_UNROLL
    for (int i = 0; i < 2; ++i) {
      const SplitWord s = split(b[i]);
      b_high[i] = s.high, b_low[i] = s.low;
    }
    ptx::mma_m16n8k8_tf32(chain_1, a_low, b_high);
    ptx::mma_m16n8k8_tf32(chain_1, a_high, b_low);
    ptx::mma_m16n8k8_tf32(chain_0, a_high, b_high);
  }
}

template <class Args, class Direction, class Traits>
class SequenceProduct : protected SequenceBlock<Args, Direction, Traits> {
 protected:
  using Block = SequenceBlock<Args, Direction, Traits>;
  using Block::lane_, Block::owners_, Block::part_, Block::shape_, Block::warp_, Block::N;
  using typename Block::T;
  static constexpr int M = Traits::kTiles, kCached = Traits::kCached;
  static constexpr int kHalves = Traits::kGroups * Traits::kPerGroup;  // with a unit in them
  // Steps whose operand is asked for at once: shared memory is some way off, the L2 a long one.
  static constexpr int kAhead = Traits::kGrid && sizeof(T) == 2 ? 4 : 2;
  // Steps of the loop that is unrolled for those whose weights lie in registers.
  static constexpr int kUnrolled = (kCached + kAhead - 1) / kAhead * kAhead;
  using Sums = float[M][N][4];

  FC_DEVICE SequenceProduct(const Args& args, int first_exchange) : Block(args, first_exchange) {
    const auto at = SequenceShared::of(shape_);
    const int own = shape_.stored_steps() * M * 2 * kWarpLanes;
    const int warps = shape_.unit_warps * shape_.parts;
    stored_ = ptx::shared_array<uint4>(0, std::int64_t(warps) * own) +
              (part_ * shape_.unit_warps + warp_) * own;
    staging_ = ptx::shared_array<uint4>(at.staging, warps * kWarpLanes) + this->thread();
    partials_ = ptx::shared_array<float2>(at.partials, (at.exchange - at.partials) / 8);
    first_step_ = part_ * shape_.part_steps();
    const int left = shape_.steps() - first_step_;
    own_steps_ = left < shape_.part_steps() ? left : shape_.part_steps();
  }

  // Elements of memory that lie behind each other: `count` of them, 0 or more.
  struct Span {
    const T* at;
    int count;
  };
  // weight(half, column) is where this lane's row of a half tile goes on at `column`; zero follows
  // what is there.
  template <class Weight>
  FC_DEVICE void load_weights(const Weight& weight) {
    FC_UNROLL
    for (int s = 0; s < kCached; ++s) {
      FC_UNROLL
      for (int m = 0; m < M; ++m) {
        cached_[s][m] = s < own_steps_ ? fragment(s, m, weight) : WeightFragment{};
      }
    }
    for (int s = kCached; s < own_steps_; ++s) {
      for (int m = 0; m < M; ++m) {
        const WeightFragment f = fragment(s, m, weight);
        stored_[stored_at(s, m)] = f.low, stored_[stored_at(s, m) + kWarpLanes] = f.high;
      }
    }
  }

  // sums = W times what was exchanged, in the warps that own units; all warps take part.
  FC_DEVICE void multiply(int exchange, Sums& sums) const {
    float chains[2][M][N][4] = {};
    FC_UNROLL
    for (int s = 0; s < kUnrolled; s += kAhead) {
      if (s >= own_steps_) break;
      uint4 b[kAhead][N];
      load_operand(exchange, s, b);
      FC_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (s + i < kCached) {
          multiply_step(cached_[s + i], b[i], chains);
        } else if (s + i < own_steps_) {
          multiply_stored(s + i, b[i], chains);
        }
      }
    }
    for (int s = kUnrolled; s < own_steps_; s += kAhead) {
      uint4 b[kAhead][N];
      load_operand(exchange, s, b);
      FC_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (s + i >= own_steps_) break;
        multiply_stored(s + i, b[i], chains);
      }
    }
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        FC_UNROLL
        for (int i = 0; i < 4; ++i) sums[m][n][i] = chains[0][m][n][i] + chains[1][m][n][i];
      }
    }
    if (shape_.parts > 1) add_parts(sums);
  }

 private:
  FC_DEVICE int stored_at(int s, int m) const {
    return ((s - kCached) * M + m) * 2 * kWarpLanes + lane_;
  }
  template <class Weight>
  FC_DEVICE WeightFragment fragment(int s, int m, const Weight& weight) const {
    return {quad(s, 2 * m, weight), quad(s, 2 * m + 1, weight)};
  }
  // This lane's 16 bytes of step s: a single load where they lie so. Else by way of shared memory,
  // so that the loop need not be unrolled: it stands in dozens of places.
  template <class Weight>
  FC_DEVICE uint4 quad(int s, int half, const Weight& weight) const {
    constexpr int kQuad = 16 / int(sizeof(T));
    const int column = (first_step_ + s) * (kStepBytes / int(sizeof(T))) + lane_ % 4 * kQuad;
    const Span from = weight(half, column);
    if (from.count <= 0) return uint4{0, 0, 0, 0};
    if (from.count >= kQuad && reinterpret_cast<std::uintptr_t>(from.at) % 16 == 0) {
      uint4 bytes;
      memcpy(&bytes, __builtin_assume_aligned(from.at, 16), sizeof bytes);
      return bytes;
    }
    const auto elements = ptx::shared_cast<Bits<T>>(staging_);
    FC_ROLLED
    for (int i = 0; i < kQuad; ++i) {
      elements[i] = bits_of(i < from.count ? from.at[i] : T(0.0f));
    }
    return staging_[0];
  }

  FC_DEVICE void load_operand(int exchange, int s, uint4 (&b)[kAhead][N]) const {
    if constexpr (Traits::kPackets) {
      load_packets(exchange, s, b);
    } else {
      load_quads(exchange, s, b);
    }
  }
  FC_DEVICE void load_quads(int exchange, int s, uint4 (&b)[kAhead][N]) const {
    FC_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        const int quad = (first_step_ + s + i) * (kStepBytes / 16) + lane_ % 4;
        b[i][n] = s + i < own_steps_ ? this->exchanged(exchange, n * kTileRows + lane_ / 4, quad)
                                     : uint4{0, 0, 0, 0};
      }
    }
  }
  FC_DEVICE void load_packets(int exchange, int s, uint4 (&b)[kAhead][N]) const {
    const unsigned tag = this->tag(exchange);
    const int row = lane_ / 4;
    ptx::Packet packets[kAhead * N];
    constexpr int kQuads = kStepBytes / 16, kRests = 2 * kQuads / Block::kGroupQuads;  // a step
    const auto quad = [&](int i) { return (first_step_ + s + i) * kQuads + lane_ % 4; };
    ptx::PacketPlace first[N];
    FC_UNROLL
    for (int n = 0; n < N; ++n) first[n] = this->packet_place(exchange, n, row, quad(0));
    const auto place = [&](int k) {
      const int i = k / N, n = k % N;
      const bool has = s + i < own_steps_ && this->is_sent(n, row, quad(i));
      return ptx::PacketPlace{has ? first[n].quad + i * kQuads : nullptr,
                              first[n].rest + i * kRests};
    };
    ptx::load_packets(packets, place, [&](const auto& p) { return is_new<T>(p, tag); });
    FC_UNROLL
    for (int k = 0; k < kAhead * N; ++k)
      b[k / N][k % N] = restored<T>(packets[k], row, quad(k / N));
  }
  FC_DEVICE void multiply_stored(int s, const uint4 (&b)[N], float (&chains)[2][M][N][4]) const {
    WeightFragment a[M];
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      a[m].low = stored_[stored_at(s, m)];
      a[m].high = stored_[stored_at(s, m) + kWarpLanes];
    }
    multiply_step(a, b, chains);
  }
  FC_DEVICE static void multiply_step(const WeightFragment (&a)[M], const uint4 (&b)[N],
                                      float (&chains)[2][M][N][4]) {
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      const unsigned a_0[4] = {a[m].low.x, a[m].high.x, a[m].low.y, a[m].high.y};
      const unsigned a_1[4] = {a[m].low.z, a[m].high.z, a[m].low.w, a[m].high.w};
      FC_UNROLL
      for (int n = 0; n < N; ++n) {
        const unsigned b_0[2] = {b[n].x, b[n].y}, b_1[2] = {b[n].z, b[n].w};
        multiply_half<T>(chains[0][m][n], chains[1][m][n], false, a_0, b_0);
        multiply_half<T>(chains[0][m][n], chains[1][m][n], true, a_1, b_1);
      }
    }
  }

  // Every part leaves what it has not the cells of, and adds up what it has. The barrier in it also
  // says that all warps are done with what was exchanged.
  FC_DEVICE void add_parts(Sums& sums) const {
    const int turn = Traits::kPackets && this->is_odd_turn_ ? shape_.parts : 0;
    const auto partial = [&](int part, int half, int n) {
      const int warp = (turn + part) * shape_.unit_warps + warp_;
      return partials_ + ((warp * kHalves + half) * N + n) * kWarpLanes + lane_;
    };
    each_half([&](int half, int n) {
      const float* const s = sums[half / 2][n] + half % 2 * 2;
      if (!owns_half(half, n)) partial(part_, half, n)[0] = float2{s[0], s[1]};
    });
    __syncthreads();
    if (part_ >= owners_) return;
    each_half([&](int half, int n) {
      if (!owns_half(half, n)) return;
      float* const s = sums[half / 2][n] + half % 2 * 2;
      FC_ROLLED
      for (int part = 0; part < shape_.parts; ++part) {
        if (part == part_) continue;
        const float2 more = partial(part, half, n)[0];
        s[0] += more.x, s[1] += more.y;
      }
    });
  }
  // Halves of tiles that have a group of units, of the tile of rows n.
  FC_DEVICE bool owns_half(int half, int n) const {
    return this->owns(n, half / Traits::kPerGroup);
  }
  template <class F>
  FC_DEVICE static void each_half(const F& f) {
    FC_UNROLL
    for (int n = 0; n < N; ++n) {
      FC_UNROLL
      for (int half = 0; half < kHalves; ++half) f(half, n);
    }
  }

  int first_step_, own_steps_;  // over K, of this part
  ptx::Shared<uint4> stored_;   // [steps past kCached][tiles][low, high][lanes]: this warp's
  ptx::Shared<uint4> staging_;  // this thread's
  // [buffers][parts][warps][halves][tiles of rows][lanes]: two rows
  ptx::Shared<float2> partials_;
  WeightFragment cached_[kCached > 0 ? kCached : 1][M];
};

}  // namespace fastcells
