// Minimal GRU and LSTM: gates of the input alone (Feng et al. 2024,
// https://arxiv.org/abs/2410.01201, sections 3.1 and 3.2).
//
//   MinGRU    z = sigmoid(x_z)                             h' = (1 - z) h + z a(x_h)
//   MinLSTM   f = sigmoid(x_f)   i = sigmoid(x_i)          c' = f/(f + i) c + i/(f + i) a(x_h)
//             h' = c'
//
// a is the identity, or g(x) = x + 0.5 for x >= 0, else sigmoid(x) (appendix B). What a(x_h) is
// made of is kept, not its value: in 16 bits that could not tell on which side of 0 it was.
#pragma once
#include "math/exponentials.h"

namespace fastcells {

struct Positive {  // g
  static constexpr const char* kMinGruName = "min_gru";
  static constexpr const char* kMinLstmName = "min_lstm";
  template <class A>
  FC_HD static A apply(A x) {
    return select(x < A(0), sigmoid(x), x + A(0.5f));
  }
  template <class A>
  FC_HD static A grad(A x) {
    return select(x < A(0), sigmoid_grad(sigmoid(x)), A(1));
  }
};

struct Identity {
  static constexpr const char* kMinGruName = "min_gru_identity";
  static constexpr const char* kMinLstmName = "min_lstm_identity";
  template <class A>
  FC_HD static A apply(A x) {
    return x;
  }
  template <class A>
  FC_HD static A grad(A) {
    return A(1);
  }
};

template <class Activation>
struct MinGRU {
  static constexpr const char* kName = Activation::kMinGruName;
  static constexpr int kGates = 2;   // z, h~
  static constexpr int kStates = 1;  // h
  static constexpr int kSaved = 2;   // z, x_h
  static constexpr int kUnitWeights = 0;
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&)[1], A, A (&state)[kStates],
                            A (&saved)[kSaved]) {
    saved[0] = sigmoid(x[0]), saved[1] = x[1];
    state[0] = state[0] + saved[0] * (Activation::apply(x[1]) - state[0]);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&)[1], A, const A (&prev)[kStates],
                             const A (&)[kStates], A (&d_state)[kStates], A (&dx)[kGates], A (&)[1],
                             A&) {
    const A z = saved[0], dh = d_state[0];
    dx[0] = dh * (Activation::apply(saved[1]) - prev[0]) * sigmoid_grad(z);
    dx[1] = dh * z * Activation::grad(saved[1]);
    d_state[0] = dh * (A(1) - z);
  }
};

template <class Activation>
struct MinLSTM {
  static constexpr const char* kName = Activation::kMinLstmName;
  static constexpr int kGates = 3;   // f, i, h~
  static constexpr int kStates = 2;  // h, c, which are equal
  static constexpr int kSaved = 4;   // i/(f + i), x_f, x_i, x_h
  static constexpr int kUnitWeights = 0;
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = false;

  // f/(f + i) = F/(F + I) with F = e^m (1 + e^-x_i), I = e^m (1 + e^-x_f), m = min(0, x_f, x_i):
  // no exponential is larger than 1, and F + I lies in 1 .. 4, where f and i may both be 0 and
  // their quotient 0/0. Minus infinity counts as a very small number.
  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&)[1], A, A (&state)[kStates],
                            A (&saved)[kSaved]) {
    const A least(-1e30f);
    const A x_f = select(x[0] < least, least, x[0]), x_i = select(x[1] < least, least, x[1]);
    const A smaller = select(x_f < x_i, x_f, x_i);
    const A m = select(smaller < A(0), smaller, A(0));
    const A one = exp_below(m);
    const A F = one + exp_below(m - x_i), I = one + exp_below(m - x_f);
    saved[0] = I / (F + I);
    saved[1] = x[0], saved[2] = x[1], saved[3] = x[2];
    state[1] = state[1] + saved[0] * (Activation::apply(x[2]) - state[1]);
    state[0] = state[1];
  }

  // The logarithm of f/i has the derivatives 1 - f by x_f and -(1 - i) by x_i.
  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&)[1], A, const A (&prev)[kStates],
                             const A (&)[kStates], A (&d_state)[kStates], A (&dx)[kGates], A (&)[1],
                             A&) {
    const A share = saved[0], dc = d_state[0] + d_state[1];
    const A d_log = dc * (prev[1] - Activation::apply(saved[3])) * sigmoid_grad(share);
    dx[0] = d_log * sigmoid(A(0) - saved[1]);
    dx[1] = A(0) - d_log * sigmoid(A(0) - saved[2]);
    dx[2] = dc * share * Activation::grad(saved[3]);
    d_state[0] = A(0);
    d_state[1] = dc * (A(1) - share);
  }
};

}  // namespace fastcells
