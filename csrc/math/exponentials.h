// Exponentials of what is not positive, square root and softplus, on host and device. Torch-free.
//
// A is float, double, or a vector of either (cpu/simd/exponentials.h). Errors against double
// (tests/cpp/vector_checks.h): one_minus_exp 2 ulp down to the smallest normal numbers.
#pragma once
#include "math/activations.h"

namespace fastcells {

// e^x for x <= 0: 0 from minus infinity, NaN from NaN.
FC_HD double exp_below(double x) { return ::exp(x); }
// 1 - e^x for x <= 0.
FC_HD double one_minus_exp(double x) { return -::expm1(x); }
FC_HD double square_root(double x) { return ::sqrt(x); }
FC_HD float square_root(float x) { return ::sqrtf(x); }
#ifdef __CUDA_ARCH__
FC_HD float exp_below(float x) { return ::expf(x); }
FC_HD float one_minus_exp(float x) { return -::expm1f(x); }
#else
FC_HD float exp_below(float x) { return polynomial::exp(larger(float(polynomial::kExpLow), x)); }
FC_HD float one_minus_exp(float x) {
  return polynomial::one_minus_exp(larger(float(polynomial::kExpLow), x));
}
#endif

// log(1 + e^x)
FC_HD double softplus(double x) { return (x > 0 ? x : 0.0) + ::log1p(::exp(x > 0 ? -x : x)); }
FC_HD float softplus(float x) { return (x > 0 ? x : 0.0f) + ::log1pf(::expf(x > 0 ? -x : x)); }

}  // namespace fastcells
