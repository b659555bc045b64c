// What the kernels of additive attention share: tanh by reciprocals, warps, and panels of 64 rows
// on their way from global to shared memory.
//
//   tanh(x) = 1 - 2 r,  r = 1 / (1 + e^2x),  e^2(q + k) = e^2q e^2k
//
// The exponentials are made once for a panel, and an element costs a multiply-add and a reciprocal.
// Two elements share one: with x = 1 + e^.. of the one and y of the other, 1 / x = y / (x y). That
// asks for |q|, |k| <= kFar: x and y are then below 2^93, so that where x y has no reciprocal
// (above 2^126) both 1 / x and 1 / y are below 2^-33, and 0 does as well. A panel with a value
// beyond kFar is far: the block takes r of the sum q + k, which is right for every number (inf and
// NaN, too), and costs two special functions where the other way costs half of one.
#pragma once
#include <cstring>

#include "attention/cuda/additive/launch.h"
#include "attention/position.h"
#include "cuda/warp.cuh"

namespace fastcells::additive {

constexpr int kWarps = 8, kThreads = kWarps * kLanes;
constexpr int kTile = int(cuda::kAdditiveTile);  // rows of a panel
constexpr int kDepth = 32;                       // columns of a panel: what a sum passes over
// From one column of a panel to the next. Reads and writes of 16 bytes want a multiple of 4; eight
// lanes that write to neighbouring columns meet 32 different banks.
constexpr int kStride = kTile + 4;
constexpr int kPanel = kDepth * kStride;  // floats
constexpr int kSide = 4;                  // a thread has kSide x kSide elements of a tile
constexpr int kTileThreads = kTile / kSide;
static_assert(kTileThreads * kTileThreads == kThreads);

// ---- tanh ----

constexpr float kFar = 16.0f;
constexpr float kFarUnit = 4294967296.0f;  // beyond, units times 2^93 might be infinite

FC_DEVICE bool is_far(float x) { return ::fabsf(x) > kFar; }
FC_DEVICE float exp_of_twice(float x) { return ::expf(x + x); }
// r of x: absolutely as good as float32, 1e-7.
FC_DEVICE float reciprocal_part(float x) {
  return ptx::reciprocal(1.0f + ptx::exp2(x * 2.885390082f));  // 2 / ln 2
}

// ---- weights with dropout's decision in their sign ----

FC_DEVICE bool is_dropped(float signed_weight) {
  unsigned bits;
  memcpy(&bits, &signed_weight, sizeof bits);
  return bits >> 31;
}
FC_DEVICE float keep_scale(const AttentionArgs& args) {
  return args.dropout.is_on ? float(args.dropout.keep_scale) : 1.0f;
}
// The scale is infinite where all is dropped: then a 0 beyond an edge must not meet it.
FC_DEVICE float kept_weight(float signed_weight, float keep_scale) {
  const bool is_zero = is_dropped(signed_weight) || signed_weight == 0.0f;
  return is_zero ? 0.0f : signed_weight * keep_scale;
}

// ---- who ----

FC_DEVICE int lane() { return int(threadIdx.x) % kLanes; }
FC_DEVICE int warp() { return int(threadIdx.x) / kLanes; }

// A block's batch row and tile, of `rows` x `columns` tiles.
struct TilePlace {
  std::int64_t b, row, column;
  FC_DEVICE TilePlace(std::int64_t rows, std::int64_t columns)
      : b(blockIdx.x / (rows * columns)),
        row(blockIdx.x / columns % rows),
        column(blockIdx.x % columns) {}
};
constexpr std::int64_t tiles(std::int64_t count, std::int64_t size = kTile) {
  return (count + size - 1) / size;
}

// ---- memory ----

// A batch row of a matrix. Past its edges there is nothing: 0.
template <class T>
struct Rows {
  const T* first;
  std::int64_t stride, rows, columns;
  const bool* seen = nullptr;  // by row, or nullptr: all; of the others there is nothing, too

  FC_DEVICE static Rows of(const HeadMatrix& m, std::int64_t b, std::int64_t rows,
                           std::int64_t columns) {
    return {static_cast<const T*>(m.data) + b * m.batch, m.row, rows, columns};
  }
  // Keys or values, up to their length.
  FC_DEVICE static Rows of_keys(const AttentionArgs& a, const HeadMatrix& m, std::int64_t b,
                                std::int64_t columns) {
    Rows rows = of(m, b, length_of(a, b), columns);
    if (a.seen) rows.seen = a.seen + b * a.Tk;
    return rows;
  }
  FC_DEVICE bool is_seen(std::int64_t row) const { return !seen || seen[row]; }
  FC_DEVICE float operator()(std::int64_t row, std::int64_t column) const {
    const bool exists = row < rows && column < columns && is_seen(row);
    return exists ? float(first[row * stride + column]) : 0.0f;
  }
  // How many rows there are from `row` on, up to a tile's.
  FC_DEVICE int left(std::int64_t row) const {
    const std::int64_t count = rows - row;
    return count < kTile ? int(count) : kTile;
  }
};

// Per batch row, [Tq, Tk]: what is kept in float32 of scores, weights and their gradients, up to
// the length.
FC_DEVICE Rows<float> score_rows(const AttentionArgs& args, const float* scores, std::int64_t b) {
  return {scores + b * args.Tq * args.Tk, args.Tk, args.Tq, length_of(args, b)};
}

// A panel's elements in registers. Lanes lie along the rows of the matrix in memory, which are the
// panel's rows (kAlongDepth) or its columns.
template <bool kAlongDepth>
class StagedPanel {
 public:
  // From row `row` and column `column` on, of a matrix or its transpose.
  template <class T>
  FC_DEVICE void load(const Rows<T>& m, std::int64_t row, std::int64_t column) {
    const std::int64_t outer = (kAlongDepth ? row : column) + memory_row(0);
    const std::int64_t inner = (kAlongDepth ? column : row) + lane();
    const T* at = m.first + outer * m.stride + inner;
    const int left = m.left(outer);
    const bool has = inner < m.columns, has_second = inner + kLanes < m.columns;
    FC_UNROLL
    for (int n = 0; n < kCount; ++n) {
      const int second = kAlongDepth ? 0 : n % 2;
      const int step = memory_row(n) - memory_row(n > 0 ? n - 1 : 0);
      at += step * m.stride;
      const int at_row = memory_row(n) - memory_row(0);
      const bool exists = at_row < left && (second ? has_second : has) && m.is_seen(outer + at_row);
      x_[n] = exists ? float(at[second * kLanes]) : 0.0f;
    }
  }
  template <class F>
  FC_DEVICE void apply(const F& f) {
    FC_UNROLL
    for (int n = 0; n < kCount; ++n) x_[n] = f(x_[n]);
  }
  FC_DEVICE bool is_far() const {
    bool far = false;
    FC_UNROLL
    for (int n = 0; n < kCount; ++n) far = far || additive::is_far(x_[n]);
    return far;
  }
  FC_DEVICE void store(ptx::Shared<float> panel) const {
    if constexpr (kAlongDepth) {
      FC_UNROLL
      for (int n = 0; n < kCount; n += 4) {
        ptx::shared_cast<float4>(panel + (lane() * kStride + memory_row(n)))[0] =
            float4{x_[n], x_[n + 1], x_[n + 2], x_[n + 3]};
      }
    } else {
      FC_UNROLL
      for (int n = 0; n < kCount; ++n) {
        panel[memory_row(n) * kStride + lane() + n % 2 * kLanes] = x_[n];
      }
    }
  }

 private:
  static constexpr int kCount = kTile * kDepth / kThreads;
  FC_DEVICE static int memory_row(int n) {
    return kAlongDepth ? 4 * (warp() + n / 4 * kWarps) + n % 4 : warp() + n / 2 * kWarps;
  }

  float x_[kCount];
};

// Four neighbouring rows of a panel's column.
FC_DEVICE void load_four(ptx::Shared<float> from, float (&x)[4]) {
  const float4 four = ptx::shared_cast<float4>(from)[0];
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}

// A thread's rows and columns of a tile.
FC_DEVICE int tile_row() { return int(threadIdx.x) / kTileThreads * kSide; }
FC_DEVICE int tile_column() { return int(threadIdx.x) % kTileThreads * kSide; }
// f(a, b) for all elements of a thread
template <class F>
FC_DEVICE void each_element(const F& f) {
  FC_UNROLL
  for (int a = 0; a < kSide; ++a) {
    FC_UNROLL
    for (int b = 0; b < kSide; ++b) f(a, b);
  }
}

}  // namespace fastcells::additive
