// What cells written as equations may say beyond math/exponentials.h, on host and device.
// Torch-free.
//
// A is float, double, or a vector of either (cpu/simd/elementary.h), whose exponential, logarithm
// and softplus are held to 3 ulp of double (tests/own_cells/test_printed_cells.py) wherever the
// result is a normal number; the rest is libm's.
#pragma once
#include "math/exponentials.h"

namespace fastcells {

FC_HD double exponential(double x) { return ::exp(x); }
FC_HD float exponential(float x) { return ::expf(x); }
FC_HD double logarithm(double x) { return ::log(x); }
FC_HD float logarithm(float x) { return ::logf(x); }
FC_HD double sine(double x) { return ::sin(x); }
FC_HD float sine(float x) { return ::sinf(x); }
FC_HD double cosine(double x) { return ::cos(x); }
FC_HD float cosine(float x) { return ::cosf(x); }
FC_HD double error_function(double x) { return ::erf(x); }
FC_HD float error_function(float x) { return ::erff(x); }
FC_HD double power(double x, double y) { return ::pow(x, y); }
FC_HD float power(float x, float y) { return ::powf(x, y); }

// NaN where one of them is.
template <class A>
FC_HD A minimum(A x, A y) {
  return select(x < y, x, select(y <= x, y, x + y));
}
template <class A>
FC_HD A maximum(A x, A y) {
  return select(y < x, x, select(x <= y, y, x + y));
}
template <class A>
FC_HD A absolute(A x) {
  return select(x < A(0), A(0) - x, x);
}
// x, below 0 e^x - 1; and its derivative, of the output.
template <class A>
FC_HD A elu(A x) {
  return select(A(0) < x, x, A(0) - one_minus_exp(x));
}
template <class A>
FC_HD A elu_grad(A y) {
  return select(A(0) < y, A(1), y + A(1));
}
// -1, 0 or 1: the derivative of absolute().
template <class A>
FC_HD A sign(A x) {
  return select(x < A(0), A(-1), select(A(0) < x, A(1), A(0)));
}

}  // namespace fastcells
