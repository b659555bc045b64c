// Long short-term memory with peepholes (Gers, Schmidhuber 2000; Graves 2013): the gates see c of
// their own unit, p a weight each.
//
//   i = sigmoid(x_i + g_i + p_i c)   f = sigmoid(x_f + g_f + p_f c)   g = tanh(x_g + g_g)
//   c' = f c + i g                   o = sigmoid(x_o + g_o + p_o c')  h' = o tanh(c')
#pragma once
#include "math/activations.h"

namespace fastcells {

struct PeepholeLSTM {
  static constexpr const char* kName = "lstm_peephole";
  static constexpr int kGates = 4;         // i, f, g, o
  static constexpr int kStates = 2;        // h, c
  static constexpr int kSaved = 4;         // i, f, g, o after their nonlinearity
  static constexpr int kUnitWeights = 3;   // p_i, p_f, p_o
  static constexpr bool kAdditive = true;  // dx == dg
  static constexpr bool kTwoProducts = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], const A (&p)[kUnitWeights],
                            A (&state)[kStates], A (&saved)[kSaved]) {
    saved[0] = sigmoid(x[0] + g[0] + p[0] * state[1]);
    saved[1] = sigmoid(x[1] + g[1] + p[1] * state[1]);
    saved[2] = tanh(x[2] + g[2]);
    state[1] = new_c(saved, state[1]);
    saved[3] = sigmoid(x[3] + g[3] + p[2] * state[1]);
    state[0] = saved[3] * tanh(state[1]);
  }
  template <class A>
  FC_HD static A new_c(const A (&saved)[kSaved], A c) {
    return saved[1] * c + saved[0] * saved[2];
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&p)[kUnitWeights],
                             const A (&prev)[kStates], const A (&next)[kStates],
                             A (&d_state)[kStates], A (&dx)[kGates], A (&dg)[kGates],
                             A (&dp)[kUnitWeights]) {
    const A i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const A tanh_c = tanh(next[1]);
    dx[3] = d_state[0] * tanh_c * sigmoid_grad(o);
    const A dc = d_state[1] + d_state[0] * o * tanh_grad(tanh_c) + dx[3] * p[2];
    dx[0] = dc * g * sigmoid_grad(i);
    dx[1] = dc * prev[1] * sigmoid_grad(f);
    dx[2] = dc * i * tanh_grad(g);
    dp[0] = dx[0] * prev[1], dp[1] = dx[1] * prev[1], dp[2] = dx[3] * next[1];
    d_state[0] = A(0);
    d_state[1] = dc * f + dx[0] * p[0] + dx[1] * p[1];
    FC_UNROLL
    for (int k = 0; k < kGates; ++k) dg[k] = dx[k];
  }
};

}  // namespace fastcells
