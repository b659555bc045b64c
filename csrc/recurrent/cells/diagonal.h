// GRU and LSTM whose recurrent matrices are diagonal (ParaRNN, Danieli et al. 2025,
// https://arxiv.org/abs/2510.21450, section 4).
//
//   DiagonalGRU    r = sigmoid(x_r + u_r h)   z = sigmoid(x_z + u_z h)
//                  n = tanh(x_n + u_n (r h))  h' = (1 - z) n + z h
//   DiagonalLSTM   f = sigmoid(x_f + u_f h)   g = tanh(x_g + u_g h)   o = sigmoid(x_o + u_o h)
//                  c' = f c + (1 - f) g       h' = o tanh(c')
//
// z is torch's, the share of the old state; ParaRNN's z is 1 - z. Its LSTM, with input and forget
// gates coupled (Greff et al. 2015), has peepholes from c to f and from c' to o, which this has
// not. What the LSTM keeps is 1 - f, as in sru.h.
#pragma once
#include "math/activations.h"

namespace fastcells {

struct DiagonalGRU {
  static constexpr const char* kName = "diagonal_gru";
  static constexpr int kGates = 3;        // r, z, n
  static constexpr int kStates = 1;       // h
  static constexpr int kSaved = 3;        // r, z, n
  static constexpr int kUnitWeights = 3;  // u_r, u_z, u_n
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&u)[kUnitWeights], A,
                            A (&state)[kStates], A (&saved)[kSaved]) {
    const A h = state[0];
    const A r = sigmoid(x[0] + u[0] * h);
    const A z = sigmoid(x[1] + u[1] * h);
    const A n = tanh(x[2] + u[2] * (r * h));
    saved[0] = r, saved[1] = z, saved[2] = n;
    state[0] = n + z * (h - n);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&u)[kUnitWeights], A,
                             const A (&prev)[kStates], const A (&)[kStates], A (&d_state)[kStates],
                             A (&dx)[kGates], A (&du)[kUnitWeights], A&) {
    const A r = saved[0], z = saved[1], n = saved[2], h = prev[0], dh = d_state[0];
    dx[2] = dh * (A(1) - z) * tanh_grad(n);
    dx[1] = dh * (h - n) * sigmoid_grad(z);
    const A d_product = dx[2] * u[2];
    dx[0] = d_product * h * sigmoid_grad(r);
    du[0] = dx[0] * h;
    du[1] = dx[1] * h;
    du[2] = dx[2] * (r * h);
    d_state[0] = dh * z + d_product * r + dx[0] * u[0] + dx[1] * u[1];
  }
};

struct DiagonalLSTM {
  static constexpr const char* kName = "diagonal_lstm";
  static constexpr int kGates = 3;        // f, g, o
  static constexpr int kStates = 2;       // h, c
  static constexpr int kSaved = 3;        // 1 - f, g, o
  static constexpr int kUnitWeights = 3;  // u_f, u_g, u_o
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&u)[kUnitWeights], A,
                            A (&state)[kStates], A (&saved)[kSaved]) {
    const A h = state[0], c = state[1];
    saved[0] = sigmoid(A(0) - (x[0] + u[0] * h));
    saved[1] = tanh(x[1] + u[1] * h);
    saved[2] = sigmoid(x[2] + u[2] * h);
    state[1] = c + saved[0] * (saved[1] - c);
    state[0] = saved[2] * tanh(state[1]);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&u)[kUnitWeights], A,
                             const A (&prev)[kStates], const A (&next)[kStates],
                             A (&d_state)[kStates], A (&dx)[kGates], A (&du)[kUnitWeights], A&) {
    const A k = saved[0], g = saved[1], o = saved[2], h = prev[0], c = prev[1], dh = d_state[0];
    const A tanh_c = tanh(next[1]);
    const A dc = d_state[1] + dh * o * tanh_grad(tanh_c);
    dx[0] = dc * (c - g) * sigmoid_grad(k);
    dx[1] = dc * k * tanh_grad(g);
    dx[2] = dh * tanh_c * sigmoid_grad(o);
    FC_UNROLL
    for (int j = 0; j < kUnitWeights; ++j) du[j] = dx[j] * h;
    d_state[0] = dx[0] * u[0] + dx[1] * u[1] + dx[2] * u[2];
    d_state[1] = dc * (A(1) - k);
  }
};

}  // namespace fastcells
