// Additive scores of a tile of 64 queries and 64 keys: a matrix product with another operation
// inside. The units pass by in panels of 32; a thread has 4 x 4 scores in registers.
//
//   s_ij = sum_d u_d - 2 sum_d u_d r_ijd
//
// Two units share a reciprocal: u / x + u' / y = (u y + u' x) / (x y). Scores go out with their
// mask, minus infinity where it hides a key.
#pragma once
#include "attention/cuda/additive/tile.cuh"

namespace fastcells::additive {

template <class T>
class ScoreTile {
 public:
  FC_DEVICE explicit ScoreTile(const cuda::AdditiveForwardArgs& args)
      : a_(args),
        place_(tiles(a_.Tq), tiles(a_.Tk)),
        length_(length_of(a_, place_.b)),
        first_query_(place_.row * kTile),
        first_key_(place_.column * kTile),
        query_rows_(Rows<T>::of(a_.query, place_.b, a_.Tq, a_.E)),
        key_rows_(Rows<T>::of_keys(a_, a_.key, place_.b, a_.E)) {}
  static constexpr int kSharedBytes = (2 * kPanel + kDepth) * int(sizeof(float));

  FC_DEVICE void run() {
    if (first_key_ >= length_) return;
    load(0);
    for (std::int64_t d = 0; d < a_.E; d += kDepth) {
      // The barrier in the question also says that all are done with the panels.
      const bool is_far =
          __syncthreads_or(queries_.is_far() || keys_.is_far() || ::fabsf(unit_) > kFarUnit);
      store(is_far);
      __syncthreads();
      if (d + kDepth < a_.E) load(d + kDepth);
      if (is_far) {
        add_far();
      } else {
        add_near();
      }
    }
    store_scores();
  }

 private:
  FC_DEVICE void load(std::int64_t d) {
    queries_.load(query_rows_, first_query_, d);
    keys_.load(key_rows_, first_key_, d);
    const std::int64_t unit = d + threadIdx.x;
    const bool has = threadIdx.x < kDepth && unit < a_.E;
    unit_ = has ? static_cast<const float*>(a_.units)[unit] : 0.0f;
  }
  FC_DEVICE void store(bool is_far) {
    if (!is_far) queries_.apply(exp_of_twice), keys_.apply(exp_of_twice);
    queries_.store(query_panel_);
    keys_.store(key_panel_);
    if (threadIdx.x < kDepth) unit_panel_[threadIdx.x] = unit_;
  }

  FC_DEVICE void add_near() {
    FC_ROLLED
    for (int d = 0; d < kDepth; d += 2) {
      float q[2][kSide], k[2][kSide];
      FC_UNROLL
      for (int n = 0; n < 2; ++n) {
        load_four(query_panel_ + ((d + n) * kStride + tile_row()), q[n]);
        load_four(key_panel_ + ((d + n) * kStride + tile_column()), k[n]);
      }
      const float u = unit_panel_[d], u_2 = unit_panel_[d + 1];
      total_ += u + u_2;
      each_element([&](int a, int b) {
        const float x = q[0][a] * k[0][b] + 1.0f, y = q[1][a] * k[1][b] + 1.0f;
        sums_[a][b] += (u * y + u_2 * x) * ptx::reciprocal(x * y);
      });
    }
  }
  FC_DEVICE void add_far() {
    FC_ROLLED
    for (int d = 0; d < kDepth; ++d) {
      float q[kSide], k[kSide];
      load_four(query_panel_ + (d * kStride + tile_row()), q);
      load_four(key_panel_ + (d * kStride + tile_column()), k);
      const float u = unit_panel_[d];
      total_ += u;
      each_element([&](int a, int b) { sums_[a][b] += u * reciprocal_part(q[a] + k[b]); });
    }
  }

  FC_DEVICE void store_scores() const {
    const AttentionPositions<T, float> positions(a_, place_.b, 0);
    each_element([&](int a, int b) {
      const std::int64_t i = first_query_ + tile_row() + a, j = first_key_ + tile_column() + b;
      if (i >= a_.Tq || j >= length_) return;
      a_.signed_weights[(place_.b * a_.Tq + i) * a_.Tk + j] =
          positions.masked(total_ - 2.0f * sums_[a][b], i, j);
    });
  }

  const cuda::AdditiveForwardArgs& a_;
  const TilePlace place_;
  const std::int64_t length_, first_query_, first_key_;
  const Rows<T> query_rows_, key_rows_;
  const ptx::Shared<float> query_panel_ = ptx::shared_array<float>(0, kPanel);
  const ptx::Shared<float> key_panel_ = ptx::shared_array<float>(kPanel * 4, kPanel);
  const ptx::Shared<float> unit_panel_ = ptx::shared_array<float>(2 * kPanel * 4, kDepth);
  StagedPanel<true> queries_, keys_;  // of the units that come next
  float unit_ = 0.0f;
  float sums_[kSide][kSide] = {}, total_ = 0.0f;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    score_kernel(const __grid_constant__ cuda::AdditiveForwardArgs args) {
  ScoreTile<T>(args).run();
}

}  // namespace fastcells::additive
