// Gradients of additive scores. There is no sum over the units in them: a thread owns one unit d
// (its lane) of some rows, keys or queries, and passes over the rows of the other kind.
//
//   dk_jd = u_d sum_i ds_ij (1 - t^2)    dq_id = u_d sum_j ds_ij (1 - t^2)    du_d = sum_ij ds_ij t
//
// With h = 1/2 - r = t / 2 that is 4 u_d sum ds (1/4 - h^2) and 2 sum ds h. The others come in
// panels of 32; two of them share a reciprocal. du is summed up where the keys are the rows, in a
// part for each block's keys.
#pragma once
#include <type_traits>

#include "attention/cuda/additive/tile.cuh"

namespace fastcells::additive {

constexpr int kOthers = kDepth;

// kRows: of a thread. kSplit: warps that share the others of the same rows.
template <class T_, bool kOfKeys_, int kRows_, int kSplit_>
struct UnitGradientTraits {
  using T = T_;
  static constexpr bool kOfKeys = kOfKeys_;
  static constexpr int kRows = kRows_, kSplit = kSplit_, kOwn = kWarps / kSplit * kRows;
  static_assert(kOwn == kTile || (kOwn == 1 && !kOfKeys));
};
template <class T>
using KeyGradient = UnitGradientTraits<T, true, kTile / kWarps, 1>;
template <class T>
using QueryGradient = UnitGradientTraits<T, false, kTile / kWarps, 1>;
template <class T>
using FewQueryGradient = UnitGradientTraits<T, false, 1, kWarps>;

template <class Traits>
class UnitGradient {
  using T = typename Traits::T;
  static constexpr int kRows = Traits::kRows, kSplit = Traits::kSplit, kOwn = Traits::kOwn;
  static constexpr bool kOfKeys = Traits::kOfKeys;
  static constexpr int kLoads = kOthers / kWarps;

 public:
  static constexpr int kSharedBytes = (kOthers * kLanes + kPanel) * int(sizeof(float));

  FC_DEVICE explicit UnitGradient(const cuda::AdditiveBackwardArgs& args)
      : a_(args),
        place_(tiles(kOfKeys ? a_.Tk : a_.Tq, kOwn), tiles(a_.E, kLanes)),
        length_(length_of(a_, place_.b)),
        first_(place_.row * kOwn),
        own_(place_.row * kOwn + warp() / kSplit * kRows),
        unit_(place_.column * kLanes + lane()),
        query_rows_(Rows<T>::of(a_.query, place_.b, a_.Tq, a_.E)),
        key_rows_(Rows<T>::of_keys(a_, a_.key, place_.b, a_.E)),
        score_rows_(score_rows(a_, a_.d_scores, place_.b)) {}

  FC_DEVICE void run() {
    bool is_own_far = false;
    FC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      own_value_[r] = own_rows()(own_ + r, unit_);
      own_power_[r] = exp_of_twice(own_value_[r]);
      is_own_far = is_own_far || is_far(own_value_[r]);
    }
    const std::int64_t others = kOfKeys && first_ >= length_ ? 0 : other_rows().rows;
    if (others > 0) load(0);
    for (std::int64_t o = 0; o < others; o += kOthers) {
      // The barrier in the question also says that all are done with the panels.
      const bool is_far = __syncthreads_or(is_own_far || is_other_far());
      store(is_far);
      __syncthreads();
      const std::int64_t left = others - o;
      if (left > kOthers) load(o + kOthers);
      add(left < kOthers ? int(left) : kOthers, is_far);
    }
    store_own();
    if constexpr (kOfKeys) store_units();
  }

 private:
  FC_DEVICE const Rows<T>& own_rows() const { return kOfKeys ? key_rows_ : query_rows_; }
  FC_DEVICE const Rows<T>& other_rows() const { return kOfKeys ? query_rows_ : key_rows_; }

  FC_DEVICE void load(std::int64_t first) {
    const Rows<T>& rows = other_rows();
    const T* at = rows.first + (first + warp()) * rows.stride + unit_;
    const int left = rows.left(first + warp());
    FC_UNROLL
    for (int n = 0; n < kLoads; ++n) {
      const bool exists = n * kWarps < left && unit_ < a_.E;
      others_[n] = exists && rows.is_seen(first + warp() + n * kWarps) ? float(*at) : 0.0f;
      at += kWarps * rows.stride;
    }
    if constexpr (kOwn == kTile) {
      d_scores_.load(score_rows_, first_, first);
    } else if (threadIdx.x < kOthers) {
      d_score_ = score_rows_(first_, first + lane());
    }
  }
  FC_DEVICE bool is_other_far() const {
    bool far = false;
    FC_UNROLL
    for (int n = 0; n < kLoads; ++n) far = far || is_far(others_[n]);
    return far;
  }
  FC_DEVICE void store(bool is_far) {
    FC_UNROLL
    for (int n = 0; n < kLoads; ++n) {
      const float x = is_far ? others_[n] : exp_of_twice(others_[n]);
      other_panel_[(warp() + n * kWarps) * kLanes + lane()] = x;
    }
    if constexpr (kOwn == kTile) {
      d_scores_.store(score_panel_);
    } else if (threadIdx.x < kOthers) {
      score_panel_[lane() * kStride] = d_score_;
    }
  }

  // This thread's rows of one column of the gradients.
  FC_DEVICE void load_column(int other, float (&ds)[kRows]) const {
    const ptx::Shared<float> column = score_panel_ + other * kStride;
    if constexpr (kOwn == kTile) {
      FC_UNROLL
      for (int r = 0; r < kRows; r += 4) {
        float four[4];
        load_four(column + (warp() * kRows + r), four);
        FC_UNROLL
        for (int e = 0; e < 4; ++e) ds[r + e] = four[e];
      }
    } else {
      ds[0] = column[0];
    }
  }

  FC_DEVICE void add(int count, bool is_far) {
    FC_ROLLED
    for (int o = warp() % kSplit * 2; o < count; o += 2 * kSplit) {  // past the count ds is 0
      float ds[2][kRows];
      load_column(o, ds[0]), load_column(o + 1, ds[1]);
      const float other = other_panel_[o * kLanes + lane()];
      const float other_2 = other_panel_[(o + 1) * kLanes + lane()];
      if (is_far) {
        FC_UNROLL
        for (int r = 0; r < kRows; ++r) {
          add_term(r, ds[0][r], 0.5f - reciprocal_part(other + own_value_[r]));
          add_term(r, ds[1][r], 0.5f - reciprocal_part(other_2 + own_value_[r]));
        }
      } else {
        FC_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const float x = other * own_power_[r] + 1.0f, y = other_2 * own_power_[r] + 1.0f;
          const float both = ptx::reciprocal(x * y);
          add_term(r, ds[0][r], 0.5f - y * both);
          add_term(r, ds[1][r], 0.5f - x * both);
        }
      }
    }
  }
  FC_DEVICE void add_term(int r, float ds, float half) {
    sums_[r] += ds * (0.25f - half * half);
    if constexpr (kOfKeys) of_unit_ += ds * half;
  }

  FC_DEVICE void store_own() {
    if constexpr (kSplit > 1) sums_[0] = sum_of_warps(sums_[0]);
    const bool is_owner = kSplit == 1 || warp() == 0;
    if (!is_owner || unit_ >= a_.E) return;
    const float factor = 4.0f * static_cast<const float*>(a_.units)[unit_];
    const std::int64_t count = kOfKeys ? a_.Tk : a_.Tq;
    T* const to = static_cast<T*>(kOfKeys ? a_.d_key : a_.d_query) + place_.b * count * a_.E;
    FC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (own_ + r < count) to[(own_ + r) * a_.E + unit_] = T(factor * sums_[r]);
    }
  }
  FC_DEVICE void store_units() {
    const float sum = sum_of_warps(of_unit_);
    if (warp() > 0 || unit_ >= a_.E) return;
    const std::int64_t part = place_.b * tiles(a_.Tk) + place_.row;
    a_.d_units[part * a_.E + unit_] = 2.0f * sum;
  }
  // In warp 0, lane by lane. By way of the others' panel.
  FC_DEVICE float sum_of_warps(float mine) const {
    __syncthreads();
    other_panel_[threadIdx.x] = mine;
    __syncthreads();
    float sum = 0.0f;
    FC_UNROLL
    for (int w = 0; w < kWarps; ++w) sum += other_panel_[w * kLanes + lane()];
    return sum;
  }

  const cuda::AdditiveBackwardArgs& a_;
  const TilePlace place_;
  const std::int64_t length_, first_, own_, unit_;
  const Rows<T> query_rows_, key_rows_;
  const Rows<float> score_rows_;
  const ptx::Shared<float> other_panel_ = ptx::shared_array<float>(0, kOthers* kLanes);
  const ptx::Shared<float> score_panel_ = ptx::shared_array<float>(kOthers * kLanes * 4, kPanel);
  StagedPanel<!kOfKeys> d_scores_;  // and others_: those that come next
  float d_score_ = 0.0f, others_[kLoads];
  float own_value_[kRows], own_power_[kRows];
  float sums_[kRows] = {}, of_unit_ = 0.0f;
};

template <class Traits>
__global__ void __launch_bounds__(kThreads)
    unit_gradient_kernel(const __grid_constant__ cuda::AdditiveBackwardArgs args) {
  UnitGradient<Traits>(args).run();
}

}  // namespace fastcells::additive
