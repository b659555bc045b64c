// Real-gated linear recurrent unit (Griffin, De et al. 2024, https://arxiv.org/abs/2402.19427,
// section 2.4).
//
//   r = sigmoid(x_r)   i = sigmoid(x_i)   a = exp(-8 softplus(L) r)   h' = a h + sqrt(1 - a^2) i s
//
// s is the input as it is. sqrt(1 - a^2) is sqrt(1 - e^(2 log a)) by expm1: exact where a is nearly
// 1, as it is in a long memory.
#pragma once
#include "math/exponentials.h"

namespace fastcells {

struct RGLRU {
  static constexpr const char* kName = "rg_lru";
  static constexpr int kGates = 2;        // r, i
  static constexpr int kStates = 1;       // h
  static constexpr int kSaved = 2;        // r, i: a itself would be rounded to 1 in 16 bits
  static constexpr int kUnitWeights = 1;  // L; its prepared form is -8 softplus(L)
  static constexpr bool kReadsInput = true;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static A prepare(A weight) {
    return A(-8) * softplus(weight);
  }
  template <class A>
  FC_HD static A prepare_grad(A weight, A d_prepared) {
    return A(-8) * sigmoid(weight) * d_prepared;
  }

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&u)[kUnitWeights], A raw,
                            A (&state)[kStates], A (&saved)[kSaved]) {
    const A r = sigmoid(x[0]), i = sigmoid(x[1]), log_a = u[0] * r;
    saved[0] = r, saved[1] = i;
    state[0] = exp_below(log_a) * state[0] + square_root(one_minus_exp(log_a + log_a)) * i * raw;
  }

  // r / sqrt(1 - a^2) goes to 0 with r, which may be 0.
  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&u)[kUnitWeights], A raw,
                             const A (&prev)[kStates], const A (&)[kStates], A (&d_state)[kStates],
                             A (&dx)[kGates], A (&du)[kUnitWeights], A& d_raw) {
    const A r = saved[0], i = saved[1], log_a = u[0] * r, dh = d_state[0];
    const A a = exp_below(log_a), b = square_root(one_minus_exp(log_a + log_a));
    const A r_over_b = select(A(0) < b, r / select(A(0) < b, b, A(1)), A(0));
    // r times the gradient of log a.
    const A d_log = dh * a * (prev[0] * r - a * r_over_b * (i * raw));
    const A d_input = dh * b;
    dx[0] = d_log * u[0] * (A(1) - r);
    dx[1] = d_input * raw * sigmoid_grad(i);
    du[0] = d_log;
    d_raw = d_input * i;
    d_state[0] = dh * a;
  }
};

}  // namespace fastcells
