// Simple recurrent unit and quasi-recurrent network: an average c of candidates, and a gate on it.
//
//   SRU    f = sigmoid(x_f + v_f c)   r = sigmoid(x_r + v_r c)       c: as it came in
//          c' = f c + (1 - f) x~      h' = r c' + (1 - r) s
//   QRNN   f = sigmoid(x_f)           o = sigmoid(x_o)
//          c' = f c + (1 - f) tanh(x_z)                              h' = o c'
//
// SRU: Lei et al. 2018 (https://arxiv.org/abs/1709.02755), equations 1 to 4. The skip term s is the
// input as it is, or ("sru_skip") a fourth block of rows. QRNN: Bradbury et al. 2016
// (https://arxiv.org/abs/1611.01576), equation 4, fo-pooling.
//
// What is computed and kept is k = 1 - f: beside an f near 1, where memories are long, it loses
// nothing, neither as a difference nor in 16-bit storage.
#pragma once
#include "math/activations.h"

namespace fastcells {

template <bool kSkipsByRows>
struct SRU {
  static constexpr const char* kName = kSkipsByRows ? "sru_skip" : "sru";
  static constexpr int kGates = kSkipsByRows ? 4 : 3;  // x~, f, r, and s
  static constexpr int kStates = 2;                    // h, c
  static constexpr int kSaved = kGates;                // x~, 1 - f, r, and s
  static constexpr int kUnitWeights = 2;               // v_f, v_r
  static constexpr bool kReadsInput = !kSkipsByRows;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&u)[kUnitWeights], A raw,
                            A (&state)[kStates], A (&saved)[kSaved]) {
    const A c = state[1];
    const A k = sigmoid(A(0) - (x[1] + u[0] * c));
    const A r = sigmoid(x[2] + u[1] * c);
    saved[0] = x[0], saved[1] = k, saved[2] = r;
    if constexpr (kSkipsByRows) saved[3] = raw = x[3];
    state[1] = c + k * (x[0] - c);
    state[0] = raw + r * (state[1] - raw);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&u)[kUnitWeights], A raw,
                             const A (&prev)[kStates], const A (&next)[kStates],
                             A (&d_state)[kStates], A (&dx)[kGates], A (&du)[kUnitWeights],
                             A& d_raw) {
    const A candidate = saved[0], k = saved[1], r = saved[2], c = prev[1], dh = d_state[0];
    if constexpr (kSkipsByRows) raw = saved[3];
    const A dc = d_state[1] + dh * r;
    const A d_skip = dh * (A(1) - r);
    dx[0] = dc * k;
    dx[1] = dc * (c - candidate) * sigmoid_grad(k);
    dx[2] = dh * (next[1] - raw) * sigmoid_grad(r);
    if constexpr (kSkipsByRows) {
      dx[3] = d_skip;
    } else {
      d_raw = d_skip;
    }
    du[0] = dx[1] * c;
    du[1] = dx[2] * c;
    d_state[0] = A(0);
    d_state[1] = dc * (A(1) - k) + dx[1] * u[0] + dx[2] * u[1];
  }
};

struct QRNN {
  static constexpr const char* kName = "qrnn";
  static constexpr int kGates = 3;   // z, f, o
  static constexpr int kStates = 2;  // h, c
  static constexpr int kSaved = 3;   // tanh(x_z), 1 - f, o
  static constexpr int kUnitWeights = 0;
  static constexpr bool kReadsInput = false;
  static constexpr bool kSavesNewH = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&)[1], A, A (&state)[kStates],
                            A (&saved)[kSaved]) {
    saved[0] = tanh(x[0]);
    saved[1] = sigmoid(A(0) - x[1]);
    saved[2] = sigmoid(x[2]);
    state[1] = state[1] + saved[1] * (saved[0] - state[1]);
    state[0] = saved[2] * state[1];
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&)[1], A, const A (&prev)[kStates],
                             const A (&next)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&)[1], A&) {
    const A z = saved[0], k = saved[1], o = saved[2], dh = d_state[0];
    const A dc = d_state[1] + dh * o;
    dx[0] = dc * k * tanh_grad(z);
    dx[1] = dc * (prev[1] - z) * sigmoid_grad(k);
    dx[2] = dh * next[1] * sigmoid_grad(o);
    d_state[0] = A(0);
    d_state[1] = dc * (A(1) - k);
  }
};

}  // namespace fastcells
