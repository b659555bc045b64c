// One direction of a layer through time: a thread's rows and units.
//
//   for each chunk of steps:  x_gates = input W_ih^T + b_ih     own units, all its frames at once
//     for each step:          h_gates = h W_hh^T + b_hh         own units, then the cell on them
//                             barrier: h of all units is needed by the next step
//
// A frame is a row at a step where it exists. h goes from step to step through two buffers; a
// row's initial state lies in both, because a reverse row starts at any step.
#pragma once
#include <type_traits>

#include "cpu/simd/pair.h"
#include "recurrent/cpu/kernels/weights.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class Forward {
  using S = typename P::S;
  using Row = typename P::Row;
  using Sh = Shape<Cell, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Sh::G, W = Sh::W, R = Sh::R;

 public:
  static std::size_t scratch_bytes(const cpu::LayerArgs& a, int64_t own_panels, int64_t rows) {
    Forward pass(a, own_panels, rows, nullptr);
    return pass.arena_.used;
  }

  Forward(const cpu::ForwardArgs& a, const cpu::Place& place)
      : Forward(a, panels_of(a, place).last - panels_of(a, place).first,
                place.groups[place.group].rows, place.scratch) {
    args_ = &a, place_ = &place, group_ = &place.groups[place.group];
    panels_ = panels_of(a, place);
  }

  void run() {
    start();
    wait_for_group();
    for (int64_t i = 0; i < a_.T; ++i) advance();
  }

  // Own units of the initial states, as carries and as what a row without steps ends with.
  void start() {
    for (int64_t r = 0; r < group_->rows; ++r) {
      const int64_t b = group_->order[r];
      const bool cut = steps_.cut_initial(b);
      if constexpr (!P::kConverts) {
        for (int parity : {0, 1}) h_rows_[parity][r] = carry_h(parity, r);
      }
      for (int64_t u = panels_.first * Sh::kUnits; u < panels_.last * Sh::kUnits; u += L) {
        const V h = initial(args_->h_0, b, u);
        if (u < a_.H) store_lanes(static_cast<T*>(args_->h_n) + b * a_.H + u, h, a_.H - u);
        for (int parity : {0, 1}) store(carry_h(parity, r) + u, cut ? V(S(0)) : h);
        if constexpr (Cell::kStates == 2) {
          const V c = initial(args_->c_0, b, u);
          if (u < a_.H) store_lanes(static_cast<T*>(args_->c_n) + b * a_.H + u, c, a_.H - u);
          store(carry_c(r) + u, cut ? V(S(0)) : c);
        }
      }
    }
  }
  // The next step; before the first one, start().
  void advance() {
    if (next_ == end_) begin_chunk();
    const int64_t t = steps_.step(next_), n = group_->active[t];
    if constexpr (P::kConverts) convert_states(int(next_ & 1), n);
    run_step(next_, t, n, frame_, is_one_step_);
    frame_ += n, ++next_;
  }

 private:
  Forward(const cpu::LayerArgs& a, int64_t own_panels, int64_t rows, void* scratch)
      : a_(a), steps_{a}, arena_{static_cast<char*>(scratch)} {
    const int64_t frames = a.chunk_frames;
    x_gates_ = arena_.take<S>(frames * own_panels * R * L);
    h_gates_ = arena_.take<S>(2 * rows * R * L);
    x_rows_ = arena_.take<const Row*>(frames);
    for (auto& h_rows : h_rows_) h_rows = arena_.take<const Row*>(rows);
    if (P::kConverts || sizeof(T) != sizeof(S)) {
      x_converted_ = arena_.take<Row>(frames * P::row_length(a.I));
    }
    if (P::kConverts) {
      h_converted_ = arena_.take<Row>(rows * P::row_length(a.H));
      x_ranges_ = arena_.take<float>(2 * frames), h_ranges_ = arena_.take<float>(2 * rows);
    }
    if (a.own_weight_hh) {
      panel_ = arena_.take<S>((a.I > a.H ? a.I : a.H) * R * L), bias_ = arena_.take<S>(R * L);
    }
  }

  static Range panels_of(const cpu::LayerArgs& a, const cpu::Place& place) {
    return share_of(divide_up(a.H, Sh::kUnits), place.rank, place.threads);
  }

  S* carry_h(int parity, int64_t r) const {
    return static_cast<S*>(args_->carry_h) + (parity * a_.B + group_->first + r) * a_.padded_H;
  }
  S* carry_c(int64_t r) const {
    return static_cast<S*>(args_->carry_c) + (group_->first + r) * a_.padded_H;
  }

  V initial(const void* states, int64_t b, int64_t u) const {
    if (!states || u >= a_.H) return V(S(0));
    return load_lanes<V>(static_cast<const T*>(states) + b * a_.H + u, a_.H - u);
  }

  // The chunk of steps from the next one on whose frames fit it: their input products.
  void begin_chunk() {
    int64_t frames = 0;
    for (; end_ < a_.T; ++end_) {
      const int64_t t = steps_.step(end_), n = group_->active[t];
      if (end_ > next_ && frames + n > a_.chunk_frames) break;
      for (int64_t r = 0; r < n; ++r) x_rows_[frames + r] = input_row(t, r, frames);
      frames += n;
    }
    frame_ = 0;
    // One step alone computes each panel's share right before it is used, and from there on.
    is_one_step_ = end_ == next_ + 1;
    for (int64_t j = 0; j < panels_.last - panels_.first && !is_one_step_; ++j) {
      multiply_input(panels_.first + j, frames, x_gates_ + j * a_.chunk_frames * R * L);
    }
  }
  void multiply_input(int64_t q, int64_t frames, S* x_gates) {
    const PanelRows<Row> rows{x_rows_, x_ranges_, x_ranges_ + a_.chunk_frames};
    if (a_.own_weight_hh) {
      multiply_own(frames, rows, a_.own_weight_ih, a_.own_bias_ih, q, a_.I, x_gates);
    } else {
      P::template multiply<R>(frames, rows, a_.I, panel_at(a_.panels_ih, q, a_.I),
                              bias_at(a_.bias_ih, q), 0, x_gates, R * L, nullptr);
    }
  }
  void multiply_state(int64_t q, int64_t n, int parity, S* h_gates) {
    const PanelRows<Row> rows{h_rows_[parity], h_ranges_, h_ranges_ + group_->rows};
    if (a_.own_weight_hh) {
      return multiply_own(n, rows, a_.own_weight_hh, a_.own_bias_hh, q, a_.H, h_gates);
    }
    // The panel that is wanted next, whether the sweep goes forth or back.
    P::template multiply<R>(n, rows, a_.H, panel_at(a_.panels_hh, q, a_.H), bias_at(a_.bias_hh, q),
                            0, h_gates, R * L,
                            panel_at(a_.panels_hh, parity && q > 0 ? q - 1 : q + 1, a_.H));
  }
  const Row* input_row(int64_t t, int64_t r, int64_t frames) {
    const T* row = static_cast<const T*>(a_.input) + (t * a_.B + group_->order[r]) * a_.I;
    const int64_t f = frames + r;
    Row* const to = x_converted_ + f * P::row_length(a_.I);
    if constexpr (P::kConverts) {
      P::convert(row, a_.I, to, x_ranges_ + f, x_ranges_ + a_.chunk_frames + f);
      return to;
    } else {
      return as_arithmetic(row, a_.I, to);
    }
  }
  void convert_states(int parity, int64_t n) {
    for (int64_t r = 0; r < n; ++r) {
      Row* const to = h_converted_ + r * P::row_length(a_.H);
      P::convert(carry_h(parity, r), a_.H, to, h_ranges_ + r, h_ranges_ + group_->rows + r);
      h_rows_[parity][r] = to;
    }
  }
  static const char* panel_at(const void* panels, int64_t q, int64_t K) {
    return static_cast<const char*>(panels) + q * P::template bytes<R>(K);
  }
  static const S* bias_at(const void* bias, int64_t q) {
    return bias ? static_cast<const S*>(bias) + q * R * L : nullptr;
  }
  // Panel q of weights as they lie, packed on the way.
  void multiply_own(int64_t n, const PanelRows<Row>& rows, const void* weight, const void* bias,
                    int64_t q, int64_t K, S* out) const {
    if constexpr (!P::kConverts) {
      gate_panel_steps<Sh>(static_cast<const typename P::Weight*>(weight), a_.H, K, q, 0, K,
                           panel_);
      bias_panel<Sh>(static_cast<const T*>(bias), a_.H, q, bias_);
      WholePanels<S>::template multiply<R>(n, rows, K, panel_, bias ? bias_ : nullptr, 0, out,
                                           R * L, panel_);
    }
  }

  // One unit vector of row r, and where its gates' products lie.
  struct CellPlace {
    int64_t r, u;
    const S *x_gates, *h_gates;
  };

  void run_step(int64_t i, int64_t t, int64_t n, int64_t frame, bool is_one_step) {
    const int parity = int(i & 1);
    const int64_t count = panels_.last - panels_.first;
    // Cells run in pairs: of two rows, or of one row in two panels, whose gates both are kept.
    CellPlace waiting{};
    bool is_waiting = false;
    for (int64_t j = 0; j < count; ++j) {
      // Back and forth: the end of one sweep is still in the cache when the next one starts.
      const int64_t own = parity ? count - 1 - j : j, q = panels_.first + own, slot = j & 1;
      S* const x_gates =
          x_gates_ + (is_one_step ? slot * a_.chunk_frames : own * a_.chunk_frames + frame) * R * L;
      S* const h_gates = h_gates_ + slot * group_->rows * R * L;
      if (is_one_step) multiply_input(q, n, x_gates);
      multiply_state(q, n, parity, h_gates);
      for (int w = 0; w < W && q * Sh::kUnits + w * L < a_.H; ++w) {
        const int64_t u = q * Sh::kUnits + w * L;
        for (int64_t r = 0; r < n; ++r) {
          const int64_t gate = r * R * L + w * G * L;
          const CellPlace place{r, u, x_gates + gate, h_gates + gate};
          if (is_waiting) run_cells<Pair<V>>(t, parity, waiting, place);
          is_waiting = !is_waiting, waiting = place;
        }
        if (n < group_->rows) clear_absent(t, n, u);
      }
    }
    if (is_waiting) run_cells<V>(t, parity, waiting, waiting);
    wait_for_group();
  }

  // The cells of one place, or of two where A is a pair.
  template <class A>
  FC_INLINE void run_cells(int64_t t, int parity, const CellPlace& p,
                           const CellPlace& second) const {
    const auto both = [&](auto value) {
      if constexpr (std::is_same_v<A, V>) {
        return value(p);
      } else {
        return A(value(p), value(second));
      }
    };
    A x[G], g[G], state[Cell::kStates], saved[Cell::kSaved];
    FC_UNROLL
    for (int k = 0; k < G; ++k) {
      x[k] = both([k](const CellPlace& at) { return load(at.x_gates + k * L); });
      g[k] = both([k](const CellPlace& at) { return load(at.h_gates + k * L); });
    }
    state[0] = both([&](const CellPlace& at) { return load(carry_h(parity, at.r) + at.u); });
    if constexpr (Cell::kStates == 2) {
      state[1] = both([&](const CellPlace& at) { return load(carry_c(at.r) + at.u); });
    }
    Cell::forward(x, g, state, saved);
    if constexpr (std::is_same_v<A, V>) {
      store_results(t, p, parity, state, saved);
    } else {
      V state_a[Cell::kStates], state_b[Cell::kStates], saved_a[Cell::kSaved],
          saved_b[Cell::kSaved];
      FC_UNROLL
      for (int k = 0; k < Cell::kStates; ++k) state_a[k] = state[k].a, state_b[k] = state[k].b;
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) saved_a[k] = saved[k].a, saved_b[k] = saved[k].b;
      store_results(t, p, parity, state_a, saved_a);
      store_results(t, second, parity, state_b, saved_b);
    }
  }

  FC_INLINE void store_results(int64_t t, const CellPlace& place, int parity,
                               const V (&state)[Cell::kStates],
                               const V (&saved)[Cell::kSaved]) const {
    const int64_t r = place.r, u = place.u;
    const int64_t b = group_->order[r], row = t * a_.B + b, n = a_.H - u;
    const V h = rounded_to<T>(state[0]);
    const bool cut = steps_.cut_after(t, b), last = steps_.is_last(t, b);
    store(carry_h(1 - parity, r) + u, cut ? V(S(0)) : h);
    store_lanes(static_cast<T*>(args_->output) + row * a_.output_stride + u, h, n);
    if (last) store_lanes(static_cast<T*>(args_->h_n) + b * a_.H + u, h, n);
    if constexpr (Cell::kStates == 2) {
      store(carry_c(r) + u, cut ? V(S(0)) : state[1]);
      if (args_->cells) {
        store_lanes(static_cast<S*>(args_->cells) + row * a_.cells_stride + u, state[1], n);
      }
      if (last) store_lanes(static_cast<T*>(args_->c_n) + b * a_.H + u, state[1], n);
    }
    if (args_->saved) {
      T* const to = static_cast<T*>(args_->saved) + row * a_.saved_stride + u;
      FC_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) store_lanes(to + k * a_.H, saved[k], n);
    }
  }

  // Zeros where a row has no step.
  void clear_absent(int64_t t, int64_t active, int64_t u) const {
    const V zero(S(0));
    for (int64_t r = active; r < group_->rows; ++r) {
      const int64_t row = t * a_.B + group_->order[r], n = a_.H - u;
      store_lanes(static_cast<T*>(args_->output) + row * a_.output_stride + u, zero, n);
      if (args_->cells) {
        store_lanes(static_cast<S*>(args_->cells) + row * a_.cells_stride + u, zero, n);
      }
      for (int k = 0; args_->saved && k < Cell::kSaved; ++k) {
        store_lanes(static_cast<T*>(args_->saved) + row * a_.saved_stride + k * a_.H + u, zero, n);
      }
    }
  }

  void wait_for_group() const { wait(place_->group_barrier); }

  const cpu::LayerArgs& a_;
  const Steps steps_;
  Arena arena_;
  const cpu::ForwardArgs* args_ = nullptr;
  const cpu::Place* place_ = nullptr;
  const cpu::RowGroup* group_ = nullptr;
  Range panels_{};
  int64_t next_ = 0, end_ = 0, frame_ = 0;  // the next step, the chunk's end, its frames before it
  bool is_one_step_ = false;
  S* x_gates_;          // [own panels][chunk frames][R*L]
  S* h_gates_;          // [2][rows][R*L]: of two panels
  const Row** x_rows_;  // [chunk frames]
  const Row** h_rows_[2];
  // Where the product's rows are not the storage's or the carries': [chunk frames][I], [rows][H].
  Row *x_converted_ = nullptr, *h_converted_ = nullptr;
  float *x_ranges_ = nullptr, *h_ranges_ = nullptr;  // of quantized rows: scales, least values
  S *panel_ = nullptr, *bias_ = nullptr;  // [max(I, H)][R*L], [R*L]: of weights as they lie
};

}  // namespace
}  // namespace fastcells
