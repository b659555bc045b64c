// The list of cells: the one line to edit for a new one. Torch-free.
//
// A cell describes one hidden unit of one batch row, in registers, after the matrix products
// x = W_ih x_t + b_ih and g = W_hh h + b_hh. It knows no index, pointer, storage type or thread.
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
#pragma once
#include "recurrent/cells/gru.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/rnn.h"

namespace fastcells {

template <class... Cell>
struct CellList {
  static constexpr int kCount = sizeof...(Cell);
};

using Cells = CellList<RNN<Tanh>, RNN<ReLU>, LSTM, GRU, GRUResetBefore, GRUArticle>;

}  // namespace fastcells
