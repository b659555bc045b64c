// The gates of a row as its cell takes them, from the products as they come: what knows no cell,
// which is compiled once, and what does.
#pragma once
#include "recurrent/cells/dispatch.h"
#include "recurrent/cpu/kernels/chunk_products.h"
#include "recurrent/rowwise/cpu/kernels/rows.h"

namespace fastcells {
namespace {

using rowwise::Norm;
using rowwise::Second;

// A cell of which c may be normalised on its way to h.
template <class Cell>
concept HasOutputGate = requires { Cell::kOutputGate; };
// A cell whose h' may be projected: it reads its own c, and no h.
template <class Cell>
concept MayProject = HasOutputGate<Cell>;

// Moments of one row: of W x and W h, or of each gate of their sum.
template <class S>
struct RowMoments {
  Moments<S> of[4];
};

// What a row's gates go through whatever their cell.
template <class S>
struct RowNorms {
  using V = Vector<S>;

  const rowwise::RowArgs& row;
  const S *bias_ih, *bias_hh;  // [G*H] or nullptr
  int64_t H, M;                // units; columns: G*H

  FC_INLINE V at(const void* vector, int64_t j, int64_t n) const {
    return load_lanes<V>(static_cast<const S*>(vector) + j, n);
  }
  FC_INLINE V bias(const S* values, int64_t j, int64_t n) const {
    return values ? load_lanes<V>(values + j, n) : V(S(0));
  }
  // Moments of W x; of a part that is not normalised those that leave it as it is.
  template <class X>
  FC_INLINE Moments<S> moments_of_x(const X& x) const {
    return row.norm_ih ? moments_of<V>(M, x) : Moments<S>{0, 1};
  }
  // Moments of W h, or of the gates' sums: h(j) and x(j) are the products at column j.
  template <class X, class Y>
  FC_INLINE void find_moments(const X& x, const Y& h, RowMoments<S>& moments) const {
    if (row.norm == Norm::kParts) {
      moments.of[1] = row.norm_hh ? moments_of<V>(M, h) : Moments<S>{0, 1};
    } else if (row.norm == Norm::kGates) {
      for (int k = 0; k * H < M; ++k) {
        moments.of[k] = moments_of<V>(H, [&](int64_t j) { return x(k * H + j) + h(k * H + j); });
      }
    }
  }
  FC_INLINE V scaled(V x, Moments<S> moments, const void* gain, const S* shift, int64_t j,
                     int64_t n) const {
    if (!gain) return x + bias(shift, j, n);
    return (x - V(moments.mean)) * V(moments.scale) * at(gain, j, n) + bias(shift, j, n);
  }
};
template <class S>
RowNorms<S> norms_of(const rowwise::RowArgs& row, const void* bias_ih, const void* bias_hh,
                     int64_t H, int gates) {
  return {row, static_cast<const S*>(bias_ih), static_cast<const S*>(bias_hh), H, gates * H};
}

template <class Cell, class S>
struct RowGates : RowNorms<S> {
  using V = Vector<S>;
  static constexpr int G = Cell::kGates, kVectors = vectors_of<Cell>();
  using RowNorms<S>::row, RowNorms<S>::bias_ih, RowNorms<S>::bias_hh, RowNorms<S>::H;
  using RowNorms<S>::at, RowNorms<S>::bias, RowNorms<S>::scaled;

  // The cell's step; u are its unit's vectors, if it has some.
  template <int kStates, int kSaved>
  FC_INLINE void run(const V (&x)[G], const V (&g)[G], int64_t u, V (&state)[kStates],
                     V (&saved)[kSaved]) const {
    if constexpr (kVectors > 0) {
      V units[kVectors];
      load_units(u, units);
      Cell::forward(x, g, units, state, saved);
    } else {
      Cell::forward(x, g, state, saved);
    }
  }
  template <int kCount>
  FC_INLINE void load_units(int64_t u, V (&units)[kCount]) const {
    FC_UNROLL
    for (int k = 0; k < kCount; ++k) units[k] = at(row.unit_weights, k * H + u, H - u);
  }
  // Units u .. of all gates, from the products x(j, n) and h(j, n), of which n lanes count.
  template <class X, class Y>
  FC_INLINE void load(const X& x, const Y& h, const RowMoments<S>& moments, int64_t u, V (&to_x)[G],
                      V (&to_h)[G]) const {
    const int64_t n = H - u;
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      const int64_t j = k * H + u;
      to_x[k] = x(j, n), to_h[k] = h(j, n);
      if (row.norm == Norm::kParts) {
        to_x[k] = scaled(to_x[k], moments.of[0], row.norm_ih, bias_ih, j, n);
        to_h[k] = scaled(to_h[k], moments.of[1], row.norm_hh, bias_hh, j, n);
      } else if (row.norm == Norm::kGates) {
        to_h[k] = scaled(to_x[k] + to_h[k], moments.of[k], row.norm_hh, bias_hh, j, n);
        to_x[k] = bias(bias_ih, j, n);
      }
    }
  }
};

// Own columns of rows times panels of weights: out[i] = rows[i] W^T + bias.
template <class P>
void multiply_columns(Range panels, int64_t n, const typename P::Row* const* rows, int64_t K,
                      const void* weights, const void* bias, typename P::S* out, int64_t stride) {
  constexpr int R = 2;
  constexpr int64_t C = R * Vector<typename P::S>::kLanes;
  for (int64_t q = panels.first; q < panels.last; ++q) {
    const char* const panel = static_cast<const char*>(weights) + q * P::template bytes<R>(K);
    const auto* const init = bias ? static_cast<const typename P::S*>(bias) + q * C : nullptr;
    P::template multiply<R>(n, {rows}, K, panel, init, 0, out + q * C, stride,
                            panel + P::template bytes<R>(K));
  }
}

// body(r) of each stage for each row: row after row where nobody waits, else stage after stage.
template <class... Stage>
FC_INLINE void in_stages(int64_t rows, cpu::Barrier* barrier, const Stage&... stage) {
  if (barrier->threads == 1) {
    for (int64_t r = 0; r < rows; ++r) (stage(r), ...);
    return;
  }
  const auto all_rows = [&](const auto& one) {
    for (int64_t r = 0; r < rows; ++r) one(r);
    wait(barrier);
  };
  (all_rows(stage), ...);
}

}  // namespace
}  // namespace fastcells
