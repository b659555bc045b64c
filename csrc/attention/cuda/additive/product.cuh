// The three products around the weights, in float32 on the ordinary units: tiles of 64 x 64, the
// depth in panels of 32, 4 x 4 sums a thread.
//
//   output  [Tq, Ev] = W V       dW [Tq, Tk] = dO V^T       dV [Tk, Ev] = W^T dO
//
// A product says how large it is, which matrices its operands are, what becomes of an element of
// the first, and where a sum goes. The first operand has the rows of the result, the second its
// columns; kAAlongDepth, kBAlongDepth tell whether these are rows in memory, too. Keys past a row's
// length are not read.
#pragma once
#include "attention/cuda/additive/tile.cuh"

namespace fastcells::additive {

template <class T>
struct OutputProduct {
  using Args = cuda::AdditiveForwardArgs;
  static constexpr bool kAAlongDepth = true, kBAlongDepth = false;
  static FC_HD std::int64_t rows(const Args& args) { return args.Tq; }
  static FC_HD std::int64_t columns(const Args& args) { return args.Ev; }

  FC_DEVICE OutputProduct(const Args& args, std::int64_t batch)
      : a(score_rows(args, args.signed_weights, batch)),
        b(Rows<T>::of_keys(args, args.value, batch, args.Ev)),
        scale(keep_scale(args)),
        output(static_cast<T*>(args.output) + batch * args.Tq * args.Ev) {}
  FC_DEVICE std::int64_t depth(std::int64_t) const { return a.columns; }
  FC_DEVICE float of_a(float x) const { return kept_weight(x, scale); }
  FC_DEVICE void store(std::int64_t i, std::int64_t e, float sum) const {
    if (i < a.rows && e < b.columns) output[i * b.columns + e] = T(sum);
  }

  const Rows<float> a;
  const Rows<T> b;
  const float scale;
  T* const output;
};

template <class T>
struct WeightGradientProduct {
  using Args = cuda::AdditiveBackwardArgs;
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true;
  static FC_HD std::int64_t rows(const Args& args) { return args.Tq; }
  static FC_HD std::int64_t columns(const Args& args) { return args.Tk; }

  FC_DEVICE WeightGradientProduct(const Args& args, std::int64_t batch)
      : a(Rows<T>::of(args.grad_output, batch, args.Tq, args.Ev)),
        b(Rows<T>::of_keys(args, args.value, batch, args.Ev)),
        d_weights(args.d_scores + batch * args.Tq * args.Tk),
        Tk(args.Tk) {}
  FC_DEVICE std::int64_t depth(std::int64_t) const { return a.columns; }
  FC_DEVICE float of_a(float x) const { return x; }
  FC_DEVICE void store(std::int64_t i, std::int64_t j, float sum) const {
    if (i < a.rows && j < b.rows) d_weights[i * Tk + j] = sum;
  }

  const Rows<T> a, b;
  float* const d_weights;
  const std::int64_t Tk;
};

template <class T>
struct ValueGradientProduct {
  using Args = cuda::AdditiveBackwardArgs;
  static constexpr bool kAAlongDepth = false, kBAlongDepth = false;
  static FC_HD std::int64_t rows(const Args& args) { return args.Tk; }
  static FC_HD std::int64_t columns(const Args& args) { return args.Ev; }

  FC_DEVICE ValueGradientProduct(const Args& args, std::int64_t batch)
      : a(score_rows(args, args.signed_weights, batch)),
        b(Rows<T>::of(args.grad_output, batch, args.Tq, args.Ev)),
        scale(keep_scale(args)),
        d_value(static_cast<T*>(args.d_value) + batch * args.Tk * args.Ev) {}
  FC_DEVICE std::int64_t depth(std::int64_t first_key) const {
    return first_key < a.columns ? a.rows : 0;
  }
  FC_DEVICE float of_a(float x) const { return kept_weight(x, scale); }
  FC_DEVICE void store(std::int64_t j, std::int64_t e, float sum) const {
    if (j < a.stride && e < b.columns) d_value[j * b.columns + e] = T(sum);
  }

  const Rows<float> a;
  const Rows<T> b;
  const float scale;
  T* const d_value;
};

constexpr int kProductBytes = 2 * kPanel * int(sizeof(float));

template <class Product>
__global__ void __launch_bounds__(kThreads)
    product_kernel(const __grid_constant__ typename Product::Args args) {
  const auto a_panel = ptx::shared_array<float>(0, kPanel);
  const auto b_panel = ptx::shared_array<float>(kPanel * 4, kPanel);
  const TilePlace place(tiles(Product::rows(args)), tiles(Product::columns(args)));
  const Product product(args, place.b);
  const std::int64_t row = place.row * kTile, column = place.column * kTile;
  const std::int64_t depth = product.depth(row);
  StagedPanel<Product::kAAlongDepth> a;
  StagedPanel<Product::kBAlongDepth> b;
  const auto load = [&](std::int64_t d) {
    a.load(product.a, row, d);
    b.load(product.b, column, d);
  };

  float sums[kSide][kSide] = {};
  if (depth > 0) load(0);
  for (std::int64_t d = 0; d < depth; d += kDepth) {
    __syncthreads();
    a.apply([&](float x) { return product.of_a(x); });
    a.store(a_panel), b.store(b_panel);
    __syncthreads();
    const std::int64_t left = depth - d;
    if (left > kDepth) load(d + kDepth);
    FC_ROLLED
    for (int c = 0; c < (left < kDepth ? int(left) : kDepth); c += 4) {  // zero past the depth
      FC_UNROLL
      for (int n = 0; n < 4; ++n) {
        float x[kSide], y[kSide];
        load_four(a_panel + ((c + n) * kStride + tile_row()), x);
        load_four(b_panel + ((c + n) * kStride + tile_column()), y);
        each_element([&](int m, int k) { sums[m][k] += x[m] * y[k]; });
      }
    }
  }
  each_element([&](int m, int k) {
    product.store(row + tile_row() + m, column + tile_column() + k, sums[m][k]);
  });
}

}  // namespace fastcells::additive
