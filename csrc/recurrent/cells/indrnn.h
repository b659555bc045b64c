// Independently recurrent network:  h' = f(x + u h),  f = tanh or relu.
//
// Li et al. 2018 (https://arxiv.org/abs/1803.04831), equation 2.
#pragma once
#include "recurrent/cells/rnn.h"

namespace fastcells {

template <class Activation>
struct IndRNN {
  static constexpr const char* kName = Activation::kIndependentName;
  static constexpr int kGates = 1;
  static constexpr int kStates = 1;       // h
  static constexpr int kSaved = 1;        // h'
  static constexpr int kUnitWeights = 1;  // u
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = true;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&u)[kUnitWeights], A,
                            A (&state)[kStates], A (&saved)[kSaved]) {
    state[0] = saved[0] = Activation::apply(x[0] + u[0] * state[0]);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&u)[kUnitWeights], A,
                             const A (&prev)[kStates], const A (&)[kStates], A (&d_state)[kStates],
                             A (&dx)[kGates], A (&du)[kUnitWeights], A&) {
    dx[0] = d_state[0] * Activation::grad(saved[0]);
    du[0] = dx[0] * prev[0];
    d_state[0] = dx[0] * u[0];
  }
};

}  // namespace fastcells
