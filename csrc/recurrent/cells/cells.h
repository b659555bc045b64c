// The lists of cells: the one line to edit for a new one. Torch-free.
//
// Dense cells exchange h between units. Such a cell describes one hidden unit of one batch row, in
// registers, after the matrix products x = W_ih x_t + b_ih and g = W_hh h + b_hh. It knows no
// index, pointer, storage type or thread.
//
//   kName         the name under which the ops know it
//   kGates        rows of W_ih and W_hh per hidden unit
//   kStates       1: h;  2: h and c
//   kSaved        values a unit and step keeps for the way back, besides the states
//   kAdditive     the gates depend on x + g alone, so dx == dg
//   kTwoProducts  the last gate's product takes reset_h() in the place of h
//   forward       (x, g, state in and out, saved out)
//   backward      (saved, prev, next, d_state in and out, dx out, dg out): d_state comes in as the
//                 gradient of the new state and leaves as the part of the previous state's
//                 gradient that passes no product (W_hh^T dg is the engine's work). next holds c
//                 alone: a cell that reads its new h saves it
//   kOutputGate   may be left out: h' = output(o, c') of saved[kOutputGate], so that c' may be
//                 normalised in between (lstm.h has what else that takes)
//
// Row cells are dense ones with vectors of their own, which the row-wise engine alone runs:
//
//   kUnitWeights  V, values of the vector unit_weights [V*H] per hidden unit
//   forward       (x, g, u, state in and out, saved out)
//   backward      (saved, u, prev, next, d_state in and out, dx out, dg out, du out)
//   new_c         c' of saved and c, where a cell has c; without it there is no zoneout of c
//
// Elementwise cells see their own unit alone: no W_hh. In the place of g come the unit's weights u
// (rows k*H + unit of the vector weight_hh [V*H]) and, raw, a column of the input as it is.
//
//   kUnitWeights  V, values of weight_hh per hidden unit; of 0 u has one element that means nothing
//   kReadsInput   raw is the unit's column of the input times skip_scale; else 0
//   kSavesNewH    saved[0] is the new h
//   forward       (x, u, raw, state in and out, saved out)
//   backward      (saved, u, raw, prev, next, d_state in and out, dx out, du out, d_raw out):
//                 du and d_raw are this step's gradients of u and raw; d_state leaves as the whole
//                 gradient of the previous state. next holds c alone, as above
//   prepare       u of what weight_hh holds, once a call, and prepare_grad back; may be left out
#pragma once
#include "recurrent/cells/diagonal.h"
#include "recurrent/cells/gru.h"
#include "recurrent/cells/indrnn.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/lstm_peephole.h"
#include "recurrent/cells/minimal.h"
#include "recurrent/cells/rg_lru.h"
#include "recurrent/cells/rnn.h"
#include "recurrent/cells/sru.h"

namespace fastcells {

template <class... Cell>
struct CellList {
  static constexpr int kCount = sizeof...(Cell);
};

#if defined(FASTCELLS_LISTS)  // a file of other cells: recurrent/compiled/export.h, or a test's
#include FASTCELLS_LISTS
#else
using Cells = CellList<RNN<Tanh>, RNN<ReLU>, LSTM, GRU, GRUResetBefore, GRUArticle>;
using ElementwiseCells = CellList<IndRNN<Tanh>, IndRNN<ReLU>, SRU<false>, SRU<true>, QRNN,
                                  MinGRU<Positive>, MinGRU<Identity>, MinLSTM<Positive>,
                                  MinLSTM<Identity>, RGLRU, DiagonalGRU, DiagonalLSTM>;
using RowCells = CellList<PeepholeLSTM>;
#endif

}  // namespace fastcells
