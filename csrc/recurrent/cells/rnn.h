// Elman network, torch.nn.RNN:  h' = f(x + g),  f = tanh or relu.
#pragma once
#include "math/activations.h"

namespace fastcells {

struct Tanh {
  static constexpr const char* kCellName = "rnn_tanh";
  static constexpr const char* kIndependentName = "indrnn_tanh";
  template <class A>
  FC_HD static A apply(A x) {
    return tanh(x);
  }
  template <class A>
  FC_HD static A grad(A y) {
    return tanh_grad(y);
  }
};

struct ReLU {
  static constexpr const char* kCellName = "rnn_relu";
  static constexpr const char* kIndependentName = "indrnn_relu";
  template <class A>
  FC_HD static A apply(A x) {  // NaN passes, as in torch.relu
    return select(x < A(0), A(0), x);
  }
  template <class A>
  FC_HD static A grad(A y) {
    return select(y <= A(0), A(0), A(1));
  }
};

template <class Activation>
struct RNN {
  static constexpr const char* kName = Activation::kCellName;
  static constexpr int kGates = 1;
  static constexpr int kStates = 1;        // h
  static constexpr int kSaved = 1;         // h'
  static constexpr bool kAdditive = true;  // dx == dg
  static constexpr bool kTwoProducts = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    state[0] = saved[0] = Activation::apply(x[0] + g[0]);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&)[kStates], const A (&)[kStates],
                             A (&d_state)[kStates], A (&dx)[kGates], A (&dg)[kGates]) {
    dx[0] = dg[0] = d_state[0] * Activation::grad(saved[0]);
    d_state[0] = A(0);
  }
};

}  // namespace fastcells
