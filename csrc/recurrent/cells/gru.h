// Gated recurrent unit, in three variants that differ in the new gate n alone:
//
//   r = sigmoid(x_r + g_r)          z = sigmoid(x_z + g_z)          h' = (1 - z) n + z h
//
//   GRU             n = tanh(x_n + r g_n)            torch.nn.GRU, cuDNN, Keras reset_after=True
//   GRUResetBefore  n = tanh(x_n + W_hn (r h) + b)   Cho et al. 2014, Keras reset_after=False
//   GRUArticle      n = r tanh(x_n + (1 - z) g_n)    as printed in the article
//
// r multiplies *after* the product in the first, *before* it in the second, which therefore
// takes two products a step: the engine asks reset_h() for their operand in between.
#pragma once
#include "math/activations.h"

namespace fastcells {

struct GRU {
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3;          // r, z, n: the row order of torch.nn.GRU
  static constexpr int kStates = 1;         // h
  static constexpr int kSaved = 4;          // r, z, n, g_n
  static constexpr bool kAdditive = false;  // dx_n != dg_n: r multiplies g_n only
  static constexpr bool kTwoProducts = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    const A r = sigmoid(x[0] + g[0]);
    const A z = sigmoid(x[1] + g[1]);
    const A n = tanh(x[2] + r * g[2]);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = g[2];
    state[0] = n + z * (state[0] - n);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&prev)[kStates],
                             const A (&)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&dg)[kGates]) {
    const A r = saved[0], z = saved[1], n = saved[2], g_n = saved[3];
    const A dh = d_state[0];
    dx[2] = dh * (A(1) - z) * tanh_grad(n);
    dx[1] = dg[1] = dh * (prev[0] - n) * sigmoid_grad(z);
    dx[0] = dg[0] = dx[2] * g_n * sigmoid_grad(r);
    dg[2] = dx[2] * r;
    d_state[0] = dh * z;
  }
};

struct GRUResetBefore {
  static constexpr const char* kName = "gru_reset_before";
  static constexpr int kGates = 3;  // r, z, n
  static constexpr int kStates = 1;
  static constexpr int kSaved = 3;  // r, z, n
  static constexpr bool kAdditive = true;
  static constexpr bool kTwoProducts = true;  // rows r, z of W_hh take h; rows n take r h

  // First stage: r h, the operand of the second product. Reads x and g of the gates r and z.
  template <class A>
  FC_HD static A reset_h(const A (&x)[kGates], const A (&g)[kGates], A h) {
    return sigmoid(x[0] + g[0]) * h;
  }

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    const A z = sigmoid(x[1] + g[1]);
    const A n = tanh(x[2] + g[2]);
    saved[0] = sigmoid(x[0] + g[0]), saved[1] = z, saved[2] = n;
    state[0] = n + z * (state[0] - n);
  }

  // First stage of the way back: everything but r, whose gradient waits for W_hn^T dg_n.
  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&prev)[kStates],
                             const A (&)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&dg)[kGates]) {
    const A z = saved[1], n = saved[2], dh = d_state[0];
    dx[2] = dg[2] = dh * (A(1) - z) * tanh_grad(n);
    dx[1] = dg[1] = dh * (prev[0] - n) * sigmoid_grad(z);
    dx[0] = dg[0] = A(0);
    d_state[0] = dh * z;
  }

  // Second stage: d_reset_h = W_hn^T dg_n is the gradient of r h. Returns dx_r, which is dg_r.
  template <class A>
  FC_HD static A backward_reset(const A (&saved)[kSaved], A h, A d_reset_h, A (&d_state)[kStates]) {
    d_state[0] = d_state[0] + d_reset_h * saved[0];
    return d_reset_h * h * sigmoid_grad(saved[0]);
  }
};

struct GRUArticle {
  static constexpr const char* kName = "gru_article";
  static constexpr int kGates = 3;  // r (the article's "merge gate"), z ("update gate"), n
  static constexpr int kStates = 1;
  static constexpr int kSaved = 4;  // r, z, tanh(x_n + (1 - z) g_n), g_n
  static constexpr bool kAdditive = false;
  static constexpr bool kTwoProducts = false;

  template <class A>
  FC_HD static void forward(const A (&x)[kGates], const A (&g)[kGates], A (&state)[kStates],
                            A (&saved)[kSaved]) {
    const A r = sigmoid(x[0] + g[0]);
    const A z = sigmoid(x[1] + g[1]);
    const A q = tanh(x[2] + (A(1) - z) * g[2]);
    saved[0] = r, saved[1] = z, saved[2] = q, saved[3] = g[2];
    state[0] = r * q + z * (state[0] - r * q);
  }

  template <class A>
  FC_HD static void backward(const A (&saved)[kSaved], const A (&prev)[kStates],
                             const A (&)[kStates], A (&d_state)[kStates], A (&dx)[kGates],
                             A (&dg)[kGates]) {
    const A r = saved[0], z = saved[1], q = saved[2], g_n = saved[3];
    const A dh = d_state[0];
    const A dn = dh * (A(1) - z);
    dx[2] = dn * r * tanh_grad(q);
    dx[1] = dg[1] = (dh * (prev[0] - r * q) - dx[2] * g_n) * sigmoid_grad(z);
    dx[0] = dg[0] = dn * q * sigmoid_grad(r);
    dg[2] = dx[2] * (A(1) - z);
    d_state[0] = dh * z;
  }
};

}  // namespace fastcells
