// The scan's functions for every type of number at one instruction set, as a table.
#pragma once
#include "scan/cpu/kernels/backward.h"
#include "scan/cpu/kernels/forward.h"

namespace fastcells {
namespace {

template <class N>
struct ScanPasses {
  using S = typename N::S;
  using V = typename N::V;
  static void combine(int64_t lanes, const void* product, const void* before, void* state) {
    const S *const p = static_cast<const S*>(product), *const h = static_cast<const S*>(before);
    S* const to = static_cast<S*>(state);
    each_vector<V::kLanes>(lanes, [&](int64_t j, int64_t n, auto whole) {
      constexpr bool kWhole = whole.value;
      const V sum = N::template multiply_add<false>(load_part<kWhole, V>(p + j, n),
                                                    load_part<kWhole, V>(h + j, n),
                                                    load_part<kWhole, V>(to + j, n));
      store_part<kWhole>(to + j, sum, n);
    });
  }
  static bool is_finite(int64_t lanes, const void* state, const void* product) {
    const S *const h = static_cast<const S*>(state), *const p = static_cast<const S*>(product);
    bool is_finite = true;
    for (int64_t j = 0; j < lanes; ++j) {
      is_finite = is_finite && h[j] - h[j] == S(0) && p[j] - p[j] == S(0);
    }
    return is_finite;
  }
  static constexpr cpu::ScanKernels kKernels = {
      ScanForward<N>::run,
      ScanBackward<N>::run,
      ScanForward<N>::summarise,
      ScanBackward<N>::summarise,
      is_finite,
      combine,
      V::kLanes,
      sizeof(S),
  };
};

const cpu::ScanKernels* find_scan(ScanStorage storage) {
  switch (storage.part) {
    case Storage::kFloat32:
      return storage.is_complex ? &ScanPasses<Complex<float>>::kKernels
                                : &ScanPasses<Real<float, float>>::kKernels;
    case Storage::kFloat64:
      return storage.is_complex ? &ScanPasses<Complex<double>>::kKernels
                                : &ScanPasses<Real<double, double>>::kKernels;
    case Storage::kFloat16: return &ScanPasses<Real<HalfBits, float>>::kKernels;
    case Storage::kBFloat16: return &ScanPasses<Real<BFloat16Bits, float>>::kKernels;
  }
  return nullptr;
}

}  // namespace
}  // namespace fastcells
