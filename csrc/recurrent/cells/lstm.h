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

  static constexpr int kOutputGate = 3;  // o: h' = output(o, c'), where c' may be normalised first

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    saved[0] = sigmoid(x[0] + g[0]);
    saved[1] = sigmoid(x[1] + g[1]);
    saved[2] = tanh(x[2] + g[2]);
    saved[3] = sigmoid(x[3] + g[3]);
    state[1] = new_c(saved, state[1]);
    state[0] = output(saved[3], state[1]);
  }
  template <class A>
  FC_HD static A new_c(const A (&saved)[kSaved], A c) {
    return saved[1] * c + saved[0] * saved[2];
  }
  template <class A>
  FC_HD static A output(A o, A c) {
    return o * tanh(c);
  }

  // Reads c of both steps, and h of neither.
  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&prev)[kStates],
                             const A (&next)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&dg)[kGates]) {
    const A dc = d_state[1] + output_backward(saved[3], next[1], d_state[0], dx[3]);
    d_state[0] = A(0);
    c_backward(saved, prev[1], dc, d_state[1], dx);
    FC_UNROLL
    for (int k = 0; k < kGates; ++k) dg[k] = dx[k];
  }
  // The gradient of what output() took for c', from dh; and that of o.
  template <class A>
  FC_HD static A output_backward(A o, A c, A dh, A& d_o) {
    const A tanh_c = tanh(c);
    d_o = dh * tanh_c * sigmoid_grad(o);
    return dh * o * tanh_grad(tanh_c);
  }
  // From dc', of i, f and g and of the c before.
  template <class A>
  FC_HD static void c_backward(const A (&saved)[kSaved], A c, A dc, A& d_previous,
                               A (&dx)[kGates]) {
    const A i = saved[0], f = saved[1], g = saved[2];
    dx[0] = dc * g * sigmoid_grad(i);
    dx[1] = dc * c * sigmoid_grad(f);
    dx[2] = dc * i * tanh_grad(g);
    d_previous = dc * f;
  }
};

}  // namespace fastcells
