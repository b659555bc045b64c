// Scalar maths shared by every cell, on host and device. Torch-free.
//
// A is the arithmetic type: float, double, or a vector of either (cpu/simd/vector.h), which joins
// by overloading select(), larger(), below_zero(), if_negative() and power_of_two(), and sigmoid()
// and tanh() for the cells. Derivatives are written in terms of the *output*, which is what the
// forward pass keeps.
//
// float on the host is branch-free polynomial code, the same for a vector. Errors against double
// (tests/cpp/test_activations.cpp, tests/cpp/vector_checks.h): exp 1.0 ulp, tanh 1.5 ulp, sigmoid
// 1.9 ulp wherever the result is a normal number.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace fastcells {

// `if_true` where the condition holds: a vector has a mask in the place of the bool.
template <class A>
FC_HD A select(bool condition, A if_true, A if_false) {
  return condition ? if_true : if_false;
}

#ifndef __CUDACC_RTC__  // host code
// x, but no less than the limit; NaN stays NaN.
FC_INLINE float larger(float limit, float x) { return limit > x ? limit : x; }
// -|x|; and `if_negative` where the sign bit of x is set.
FC_INLINE float below_zero(float x) { return __builtin_copysignf(x, -1.0f); }
FC_INLINE float if_negative(float x, float if_negative, float otherwise) {
  return __builtin_signbit(x) ? if_negative : otherwise;
}

namespace polynomial {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer

// 2^n, where shifted = n + kRound and n is an integer in -126 .. 127; 0 for -127.
FC_INLINE float power_of_two(float shifted) {
  std::uint32_t bits, zero;  // unsigned: NaN and infinity come by, and wrap around
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&zero, &kRound, sizeof zero);
  const std::uint32_t power_bits = (bits - zero + 127) << 23;
  float power;
  std::memcpy(&power, &power_bits, sizeof power);
  return power;
}

constexpr float kExpLow = -88.0f, kExpHigh = 88.0f;

// e^x = power + rest * power, for x in [kExpLow, kExpHigh], to which the caller holds it: a power
// of two, 0 at kExpLow, and rest = e^r - 1 of what is left, |r| <= ln 2 / 2. NaN for NaN.
template <class A>
struct Exponential {
  A power, rest;
};
template <class A>
FC_INLINE Exponential<A> split_exp(A x) {
  const A round(kRound);
  const A shifted = x * A(1.44269504f) + round;  // log2(e)
  const A n = shifted - round;
  const A r = (x - n * A(0.693359375f)) - n * A(-2.12194440e-4f);  // ln 2 in two parts
  // (e^r - 1 - r) / r^2: minimax, 0.05 * 2^-24 of e^r (Lawson's iteration in double).
  A p = A(1.3814540e-3f);
  p = p * r + A(8.3687451e-3f);
  p = p * r + A(4.1668391e-2f);
  p = p * r + A(1.6666520e-1f);
  p = p * r + A(4.9999993e-1f);
  p = p * r * r + r;
  return {power_of_two(shifted), p};
}
// e^x: the largest last, so that each sum before it rounds less.
template <class A>
FC_INLINE A exp(A x) {
  const Exponential<A> e = split_exp(x);
  return e.rest * e.power + e.power;
}
// 1 - e^x, to the last bits where x is near 0.
template <class A>
FC_INLINE A one_minus_exp(A x) {
  const Exponential<A> e = split_exp(x);
  return (A(1.0f) - e.power) - e.rest * e.power;
}

// 1 - 2 d with d = e^-2|x| / (1 + e^-2|x|), and near zero a polynomial (S. L. Moshier, Cephes
// library, tanhf.c).
template <class A>
FC_INLINE A tanh(A x) {
  const A one(1.0f), y = x * x, below = below_zero(x);
  A p = A(-5.70498872745e-3f);
  p = p * y + A(2.06390887954e-2f);
  p = p * y - A(5.37397155531e-2f);
  p = p * y + A(1.33314422036e-1f);
  p = p * y - A(3.33332819422e-1f);
  const A near_zero = p * y * x + x;
  const A e = exp(larger(A(kExpLow), below + below));
  const A far = one - A(2.0f) * (e / (one + e));
  return select(below < A(-0.625f), if_negative(x, A(0.0f) - far, far), near_zero);
}

// With e = e^-|x| and d = e / (1 + e): 1 - d for x >= 0, else e - e d, where the errors of d count
// little.
template <class A>
FC_INLINE A sigmoid(A x) {
  const A one(1.0f);
  const A e = exp(larger(A(kExpLow), below_zero(x)));
  const A first = if_negative(x, e, one);
  return first - first * (e / (one + e));
}

}  // namespace polynomial
#endif

// sigmoid(x) = 1 / (1 + e^-x)
FC_HD double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }
FC_HD double tanh(double x) { return ::tanh(x); }

#ifdef __CUDA_ARCH__
// Divided by the approximate reciprocal, which needs no branch: 2 ulp, and 0 below the normal
// numbers.
FC_HD float sigmoid(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + ::expf(-x)));
  return y;
}
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
