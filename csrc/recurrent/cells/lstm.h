// Long short-term memory without peepholes, torch.nn.LSTM.
//
//   i = sigmoid(x_i + g_i)   f = sigmoid(x_f + g_f)   g = tanh(x_g + g_g)   o = sigmoid(x_o + g_o)
//   c' = f c + i g           h' = o tanh(c')
//
// A projection (proj_size) multiplies h' after the cell and is the engine's work.
#pragma once
#include "math/activations.h"

namespace fastcells {

struct LSTM {
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4;         // i, f, g, o: the row order of torch.nn.LSTM
  static constexpr int kStates = 2;        // h, c
  static constexpr int kSaved = 4;         // i, f, g, o after their nonlinearity
  static constexpr bool kAdditive = true;  // dx == dg
  static constexpr bool kTwoProducts = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    saved[0] = sigmoid(x[0] + g[0]);
    saved[1] = sigmoid(x[1] + g[1]);
    saved[2] = tanh(x[2] + g[2]);
    saved[3] = sigmoid(x[3] + g[3]);
    state[1] = saved[1] * state[1] + saved[0] * saved[2];
    state[0] = saved[3] * tanh(state[1]);
  }

  // Reads c of both steps, and h of neither.
  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&prev)[kStates],
                             const A (&next)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&dg)[kGates]) {
    const A i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const A tanh_c = tanh(next[1]);
    const A dc = d_state[1] + d_state[0] * o * tanh_grad(tanh_c);
    dx[0] = dg[0] = dc * g * sigmoid_grad(i);
    dx[1] = dg[1] = dc * prev[1] * sigmoid_grad(f);
    dx[2] = dg[2] = dc * i * tanh_grad(g);
    dx[3] = dg[3] = d_state[0] * tanh_c * sigmoid_grad(o);
    d_state[0] = A(0);
    d_state[1] = dc * f;
  }
};

}  // namespace fastcells
