// Scalar maths shared by every cell, on host and device. Torch-free.
//
// A is the arithmetic type: float and double here; a vector type joins by overloading
// sigmoid() and tanh(). Derivatives are written in terms of the *output*, which is what the
// forward pass keeps.
//
// float on the host is branch-free polynomial code, so that a loop over hidden units is
// vectorised at whatever width the compiler targets. Errors over all finite inputs, against
// double (tests/cpp/test_activations.cpp): exp 1.0 ulp, tanh 1.3 ulp, sigmoid 2.3 ulp wherever the
// result is a normal number. Polynomials: S. L. Moshier, Cephes library (expf.c, tanhf.c).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FC_HD __host__ __device__ __forceinline__
#define FC_UNROLL _Pragma("unroll")
#else
#define FC_HD inline
#define FC_UNROLL _Pragma("GCC unroll 8")
#endif

namespace fastcells {
namespace polynomial {

// e^x for x in [-87.3, 88.3]; the ends are returned beyond them, NaN for NaN.
inline float exp(float x) {
  constexpr float kLow = -87.33654f, kHigh = 88.37626f;
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
  x = x < kLow ? kLow : x;
  x = x > kHigh ? kHigh : x;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  std::int32_t bits, zero;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&zero, &kRound, sizeof zero);
  const std::int32_t scale_bits = (bits - zero + 127) * (1 << 23);
  float scale;
  std::memcpy(&scale, &scale_bits, sizeof scale);
  return p * scale;
}

inline float tanh(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float y = x * x;
  float p = -5.70498872745e-3f;
  p = p * y + 2.06390887954e-2f;
  p = p * y - 5.37397155531e-2f;
  p = p * y + 1.33314422036e-1f;
  p = p * y - 3.33332819422e-1f;
  const float near_zero = p * y * x + x;
  const float far = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  const float signed_far = x < 0.0f ? -far : far;
  return magnitude < 0.625f ? near_zero : signed_far;
}

}  // namespace polynomial

// sigmoid(x) = 1 / (1 + e^-x)
FC_HD double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
FC_HD double tanh(double x) { return ::tanh(x); }

#ifdef __CUDA_ARCH__
FC_HD float sigmoid(float x) { return 1.0f / (1.0f + ::expf(-x)); }
FC_HD float tanh(float x) { return ::tanhf(x); }
#else
FC_HD float sigmoid(float x) { return 1.0f / (1.0f + polynomial::exp(-x)); }
FC_HD float tanh(float x) { return polynomial::tanh(x); }
#endif

template <class A>
FC_HD A sigmoid_grad(A y) {
  return y * (A(1) - y);
}
template <class A>
FC_HD A tanh_grad(A y) {
  return A(1) - y * y;
}

}  // namespace fastcells
