// Real and complex numbers with the one operation of a scan: T as they are stored, A as they are
// computed with.
#pragma once
#include <cuda_runtime.h>

#include "cuda/storage.cuh"
#include "cuda/warp.cuh"
#include "host_device.h"
#include "scan/args.h"

namespace fastcells::cuda {

template <class T_, class A_>
struct RealNumber {
  using T = T_;
  using A = A_;
  FC_HD static A load(const T* p) { return static_cast<A>(*p); }
  FC_HD static void store(T* p, A x) { *p = static_cast<T>(x); }
  FC_HD static A zero() { return A(0); }
  FC_HD static A one() { return A(1); }
  FC_HD static A add(A x, A y) { return x + y; }
  FC_HD static A multiply(A x, A y) { return x * y; }
  FC_HD static A multiply_add(A a, A x, A b) { return a * x + b; }
  FC_HD static A conjugate_multiply(A a, A x) { return a * x; }
  FC_HD static bool is_finite(A x) { return x - x == A(0); }
  FC_DEVICE static A of_lane(A x, int from) { return __shfl_sync(~0u, x, from); }
};

template <class S>
struct alignas(2 * sizeof(S)) ComplexParts {
  S re, im;
};
template <class S>
struct ComplexNumber {
  using T = ComplexParts<S>;
  using A = ComplexParts<S>;
  FC_HD static A load(const T* p) { return *p; }
  FC_HD static void store(T* p, A x) { *p = x; }
  FC_HD static A zero() { return {S(0), S(0)}; }
  FC_HD static A one() { return {S(1), S(0)}; }
  FC_HD static A add(A x, A y) { return {x.re + y.re, x.im + y.im}; }
  FC_HD static A multiply(A x, A y) { return multiply_add(x, y, zero()); }
  FC_HD static A multiply_add(A a, A x, A b) {
    return {a.re * x.re - a.im * x.im + b.re, a.re * x.im + a.im * x.re + b.im};
  }
  FC_HD static A conjugate_multiply(A a, A x) {
    return {a.re * x.re + a.im * x.im, a.re * x.im - a.im * x.re};
  }
  FC_HD static bool is_finite(A x) { return x.re - x.re == S(0) && x.im - x.im == S(0); }
  FC_DEVICE static A of_lane(A x, int from) {
    return {__shfl_sync(~0u, x.re, from), __shfl_sync(~0u, x.im, from)};
  }
};

// f(TypeTag<number>) of a storage.
template <class F>
void dispatch_numbers(ScanStorage storage, const F& f) {
  if (storage.is_complex) {
    if (storage.part == Storage::kFloat64) return f(TypeTag<ComplexNumber<double>>{});
    return f(TypeTag<ComplexNumber<float>>{});
  }
  dispatch_storage<Cuda>(storage.part, [&](auto types) {
    using Types = decltype(types);
    f(TypeTag<RealNumber<typename Types::T, typename Types::A>>{});
  });
}

}  // namespace fastcells::cuda
