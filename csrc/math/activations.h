// Scalar maths shared by every cell, on host and device. Torch-free.
//
// A is the arithmetic type: float, double, or a vector of either (cpu/isa/vector.h), which joins by
// overloading select(), smaller(), larger(), magnitude(), with_sign_of() and power_of_two(), and
// sigmoid() and tanh() for the cells. Derivatives are written in terms of
// the *output*, which is what the forward pass keeps.
//
// float on the host is branch-free polynomial code, the same for a vector. Errors against double
// (tests/cpp/test_activations.cpp, tests/cpp/vector_checks.h): exp 1.0 ulp, tanh 1.3 ulp, sigmoid
// 2.5 ulp wherever the result is a normal number. Polynomials: S. L. Moshier,
// Cephes library (expf.c, tanhf.c).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FC_HD __host__ __device__ __forceinline__
#define FC_UNROLL _Pragma("unroll")
#else
#define FC_HD inline
#define FC_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastcells {

// `if_true` where the condition holds: a vector has a mask in the place of the bool.
template <class A>
FC_HD A select(bool condition, A if_true, A if_false) {
  return condition ? if_true : if_false;
}

// x held to a limit; NaN stays NaN.
inline float smaller(float limit, float x) { return limit < x ? limit : x; }
inline float larger(float limit, float x) { return limit > x ? limit : x; }
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline float with_sign_of(float x, float sign) { return __builtin_copysignf(x, sign); }

namespace polynomial {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer

// 2^n, where shifted = n + kRound and n is an integer in -126 .. 127.
inline float power_of_two(float shifted) {
  std::int32_t bits, zero;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&zero, &kRound, sizeof zero);
  const std::int32_t power_bits = (bits - zero + 127) * (1 << 23);
  float power;
  std::memcpy(&power, &power_bits, sizeof power);
  return power;
}

// e^x for x in [-87.3, 88.3]; the ends are returned beyond them, NaN for NaN.
template <class A>
inline A exp(A x) {
  const A low(-87.33654f), high(88.37626f), round(kRound);
  x = smaller(high, larger(low, x));
  const A shifted = x * A(1.44269504f) + round;  // log2(e)
  const A n = shifted - round;
  const A r = (x - n * A(0.693359375f)) - n * A(-2.12194440e-4f);  // ln 2 in two parts
  A p = A(1.9875691500e-4f);
  p = p * r + A(1.3981999507e-3f);
  p = p * r + A(8.3334519073e-3f);
  p = p * r + A(4.1665795894e-2f);
  p = p * r + A(1.6666665459e-1f);
  p = p * r + A(5.0000001201e-1f);
  p = p * r * r + r + A(1.0f);  // the largest last: each sum before it rounds less
  return p * power_of_two(shifted);
}

template <class A>
inline A tanh(A x) {
  const A one(1.0f), size = magnitude(x), y = x * x;
  A p = A(-5.70498872745e-3f);
  p = p * y + A(2.06390887954e-2f);
  p = p * y - A(5.37397155531e-2f);
  p = p * y + A(1.33314422036e-1f);
  p = p * y - A(3.33332819422e-1f);
  const A near_zero = p * y * x + x;
  const A far = one - A(2.0f) / (exp(size + size) + one);
  return select(size < A(0.625f), near_zero, with_sign_of(far, x));
}

template <class A>
inline A sigmoid(A x) {
  return A(1.0f) / (A(1.0f) + exp(A(0.0f) - x));
}

}  // namespace polynomial

// sigmoid(x) = 1 / (1 + e^-x)
FC_HD double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
FC_HD double tanh(double x) { return ::tanh(x); }

#ifdef __CUDA_ARCH__
FC_HD float sigmoid(float x) { return 1.0f / (1.0f + ::expf(-x)); }
FC_HD float tanh(float x) { return ::tanhf(x); }
#else
FC_HD float sigmoid(float x) { return polynomial::sigmoid(x); }
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
