// The three products around the weights, in float32 on the ordinary units: tiles of 64 x 64, the
// depth in panels of 32, 4 x 4 sums a thread.
//
//   output  [Tq, Ev] = W V       dW [Tq, Tk] = dO V^T       dV [Tk, Ev] = W^T dO
//
// A product says how large it is, what its operands are and where a sum goes; operand a has the
// rows of the result, b its columns, and kAAlongDepth, kBAlongDepth tell along which direction they
// lie in memory. Keys past a row's length are not read.
#pragma once
#include "cuda/additive_tile.cuh"

namespace fastcells::additive {

// The weights of a batch row after dropout: row i, key j; 0 past the length.
struct KeptWeights {
  const float* first;  // [Tq, Tk] of batch row b
  std::int64_t Tq, Tk, length;
  float scale;

  template <class Args>
  FC_DEVICE KeptWeights(const Args& a, std::int64_t b)
      : first(a.signed_weights + b * a.Tq * a.Tk),
        Tq(a.Tq),
        Tk(a.Tk),
        length(length_of(a, b)),
        scale(keep_scale(a)) {}
  FC_DEVICE float operator()(std::int64_t i, std::int64_t j) const {
    return i < Tq && j < length ? kept_weight(first[i * Tk + j], scale) : 0.0f;
  }
};

template <class T>
struct OutputProduct {
  using Args = cuda::AdditiveForwardArgs;
  static constexpr bool kAAlongDepth = true, kBAlongDepth = false;
  static FC_HD std::int64_t rows(const Args& a) { return a.Tq; }
  static FC_HD std::int64_t columns(const Args& a) { return a.Ev; }

  FC_DEVICE OutputProduct(const Args& args, std::int64_t b)
      : weights(args, b),
        value(Rows<T>::of(args.value, b, weights.length, args.Ev)),
        output(static_cast<T*>(args.output) + b * args.Tq * args.Ev) {}
  FC_DEVICE std::int64_t depth(std::int64_t, std::int64_t) const { return weights.length; }
  FC_DEVICE float a(std::int64_t i, std::int64_t j) const { return weights(i, j); }
  FC_DEVICE float b(std::int64_t e, std::int64_t j) const { return value(j, e); }
  FC_DEVICE void store(std::int64_t i, std::int64_t e, float sum) const {
    if (i < weights.Tq && e < value.columns) output[i * value.columns + e] = T(sum);
  }

  const KeptWeights weights;
  const Rows<T> value;
  T* const output;
};

template <class T>
struct WeightGradientProduct {
  using Args = cuda::AdditiveBackwardArgs;
  static constexpr bool kAAlongDepth = true, kBAlongDepth = true;
  static FC_HD std::int64_t rows(const Args& a) { return a.Tq; }
  static FC_HD std::int64_t columns(const Args& a) { return a.Tk; }

  FC_DEVICE WeightGradientProduct(const Args& args, std::int64_t b)
      : d_output(Rows<T>::of(args.grad_output, b, args.Tq, args.Ev)),
        value(Rows<T>::of(args.value, b, length_of(args, b), args.Ev)),
        d_weights(args.d_scores + b * args.Tq * args.Tk),
        Tk(args.Tk) {}
  FC_DEVICE std::int64_t depth(std::int64_t, std::int64_t first_key) const {
    return first_key < value.rows ? value.columns : 0;
  }
  FC_DEVICE float a(std::int64_t i, std::int64_t e) const { return d_output(i, e); }
  FC_DEVICE float b(std::int64_t j, std::int64_t e) const { return value(j, e); }
  FC_DEVICE void store(std::int64_t i, std::int64_t j, float sum) const {
    if (i < d_output.rows && j < value.rows) d_weights[i * Tk + j] = sum;
  }

  const Rows<T> d_output, value;
  float* const d_weights;
  const std::int64_t Tk;
};

template <class T>
struct ValueGradientProduct {
  using Args = cuda::AdditiveBackwardArgs;
  static constexpr bool kAAlongDepth = false, kBAlongDepth = false;
  static FC_HD std::int64_t rows(const Args& a) { return a.Tk; }
  static FC_HD std::int64_t columns(const Args& a) { return a.Ev; }

  FC_DEVICE ValueGradientProduct(const Args& args, std::int64_t b)
      : weights(args, b),
        d_output(Rows<T>::of(args.grad_output, b, args.Tq, args.Ev)),
        d_value(static_cast<T*>(args.d_value) + b * args.Tk * args.Ev) {}
  FC_DEVICE std::int64_t depth(std::int64_t first_key, std::int64_t) const {
    return first_key < weights.length ? weights.Tq : 0;
  }
  FC_DEVICE float a(std::int64_t j, std::int64_t i) const { return weights(i, j); }
  FC_DEVICE float b(std::int64_t e, std::int64_t i) const { return d_output(i, e); }
  FC_DEVICE void store(std::int64_t j, std::int64_t e, float sum) const {
    if (j < weights.Tk && e < d_output.columns) d_value[j * d_output.columns + e] = T(sum);
  }

  const KeptWeights weights;
  const Rows<T> d_output;
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
  const std::int64_t depth = product.depth(row, column);
  StagedPanel<Product::kAAlongDepth> a;
  StagedPanel<Product::kBAlongDepth> b;
  const auto load = [&](std::int64_t d) {
    a.load([&](int r, int c) { return d + c < depth ? product.a(row + r, d + c) : 0.0f; });
    b.load([&](int r, int c) { return d + c < depth ? product.b(column + r, d + c) : 0.0f; });
  };

  float sums[kSide][kSide] = {};
  if (depth > 0) load(0);
  for (std::int64_t d = 0; d < depth; d += kDepth) {
    __syncthreads();
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
