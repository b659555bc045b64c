// One direction of a layer back through time, where a cell needs its whole row: a thread's rows and
// units.
//
//   for each chunk of steps, the last computed first:
//     (the products of the chunk again, where they were not kept);  moments of its frames barrier
//     for each step:  gradients of the gates, own units (where c is normalised: in three stages)
//                     through the normalisation of W h, own units barrier carry_dh += dg W_hh, own
//                     units                                          barrier
//                     (a second product: before the cell, dm = dh' W_hr; behind it, d(r h) = dg_n
//                     W_hn, then dr)
//     gains and biases;  through the normalisation of W x barrier dW and d_input of the chunk's
//     frames
#pragma once
#include "recurrent/rowwise/cpu/kernels/second_product.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class RowwiseBackward : SecondProduct<T, P> {
  using Base = SecondProduct<T, P>;
  using S = typename P::S;
  using Sh = Shape<Columns, T, S>;
  using V = typename Sh::V;
  static constexpr int L = Sh::L, G = Cell::kGates, C = Sh::kColumns, kStates = Cell::kStates;
  static constexpr int kSaved = Cell::kSaved, kVectors = vectors_of<Cell>();
  static constexpr bool kTwo = Cell::kTwoProducts;
  using Base::arena_, Base::place_, Base::group_, Base::steps_, Base::frames_, Base::group_frame_;
  using Base::carry, Base::chunk_begin, Base::list_frames, Base::multiply_rows;
  using Base::carry_of_h, Base::columns_of_h, Base::d_operand, Base::entering;
  using Base::load_entering, Base::units_of;
  using Base::moments, Base::raw_x, Base::raw_h, Base::has_raw, Base::args_;
  using typename Base::Entering;

 public:
  static std::size_t scratch_bytes(const rowwise::BackwardArgs& a) {
    return RowwiseBackward(a, nullptr).arena_.used;
  }

  RowwiseBackward(const rowwise::BackwardArgs& a, const cpu::Place& place)
      : RowwiseBackward(a, place.scratch) {
    place_ = &place, group_ = &place.groups[place.group];
    own_ = share_of(divide_up(a.H, C), place.rank, place.threads);
    own_of_h_ = share_of(divide_up(a.P, C), place.rank, place.threads);
    units_ = {own_.first * C, own_.last * C};
    units_of_h_ = {own_of_h_.first * C, own_of_h_.last * C};
  }

  void run() {
    draw_dropped(args_.row, *group_, args_.padded_H, units_, kept_h_);
    if (args_.row.dropped) wait(place_->team_barrier);
    this->template start_carries<kStates>(units_of_h_, units_);
    bool is_first = true;
    for (int64_t end = args_.T; end > 0; is_first = false) {
      const int64_t begin = chunk_begin(end);
      list_frames(begin, end);
      this->begin_chunk();
      int64_t frame = group_frame_;
      for (int64_t i = end - 1; i >= begin; --i) {
        const int64_t t = steps_.step(i);
        run_step(t, frame);
        frame += group_->active[t];
      }
      this->add_up(is_first);
      end = begin;
    }
    this->template finish_carries<kStates>(units_of_h_, units_);
  }

 private:
  RowwiseBackward(const rowwise::BackwardArgs& a, void* scratch)
      : Base(a, G, kSaved, scratch), gates_{Base::norms_} {
    kept_h_ = arena_.template take<S>(a.padded_H + kMaskBlock);
    kept_c_ = arena_.template take<S>(a.padded_H + kMaskBlock);
    if (a.row.dropped) undropped_ = arena_.template take<S>(a.B * C);
  }

  // ---- one step ----

  struct Row {
    int64_t r, t, b, frame, slot;  // slot: of scratch, 0 where rows do not wait for one another
    bool cut;
    const T* saved;  // [S*H], where the gates are kept
    const T* d_output;
    const S* d_cells;
    Entering entering;
    const S* c;                // as it was carried on, plane by plane
    const S *kept_h, *kept_c;  // factors of the old states, or nullptr
    S* carry_dh;
    S *dx, *dg;  // [G*H]
  };
  Row row_at(int64_t t, int64_t r, int64_t frame) {
    const int64_t b = group_->order[r], at = t * args_.B + b, M = G * args_.H;
    Row x{};
    x.r = r, x.t = t, x.b = b, x.frame = frame + r;
    x.slot = place_->threads == 1 ? group_->first : group_->first + r;
    x.cut = steps_.cut_after(t, b);
    x.saved = has_raw() ? nullptr : row_of<T>(args_.saved, at, args_.saved_stride);
    x.d_output = row_of<T>(args_.d_output, at, args_.output_stride);
    x.entering = this->template entering<kStates>(t, b);
    x.kept_h = zoneout_row(args_.row.noise, NoiseKind::kZoneoutH, t, b, units_, kept_h_);
    x.carry_dh = carry_of_h(r);
    if constexpr (kStates > 1) {
      x.d_cells = row_of<S>(args_.d_cells, at, args_.cells_stride);
      x.c = row_of<S>(args_.cells, at, args_.cells_stride);
      x.kept_c = zoneout_row(args_.row.noise, NoiseKind::kZoneoutC, t, b, units_, kept_c_);
    }
    x.dx = static_cast<S*>(args_.dx_gates) + x.frame * M;
    x.dg = static_cast<S*>(args_.dg_gates) + x.frame * M;
    return x;
  }
  bool is_projected() const { return MayProject<Cell> && args_.row.second == Second::kProjection; }
  int64_t end_of_units() const { return at_most(units_.last, args_.H); }

  void run_step(int64_t t, int64_t frame) {
    const int64_t n = group_->active[t], M = G * args_.H, K = columns_of_h();
    const auto* const dg = static_cast<const S*>(args_.dg_raw) + frame * M;
    const auto cells = [&](int64_t r) { run_cells(row_at(t, r, frame)); };
    const auto norm = [&](int64_t r) {
      if (args_.row.norm == Norm::kNone) return;
      const int64_t at = (frame + r) * M;
      this->pass_norm_of_h(frame + r, units_, static_cast<const S*>(args_.dg_gates) + at,
                           static_cast<S*>(args_.dg_raw) + at);
    };
    if (HasOutputGate<Cell> && args_.row.norm_c) {
      in_stages(
          n, place_->group_barrier, [&](int64_t r) { find_c(row_at(t, r, frame)); },
          [&](int64_t r) { pass_output(row_at(t, r, frame)); },
          [&](int64_t r) { pass_c(row_at(t, r, frame)); }, norm);
    } else if (is_projected()) {
      in_stages(n, place_->group_barrier,
                [&](int64_t r) { this->take_dh(t, r, frame, units_of_h_); });
      const auto* const dh = static_cast<const S*>(args_.d_projected) + frame * args_.P;
      multiply_rows(own_, n, dh, args_.P, args_.P, args_.plain_second, false, d_operand(0),
                    args_.padded_H);
      in_stages(n, place_->group_barrier, cells);
    } else if (kTwo) {
      in_stages(n, place_->group_barrier, cells);
      multiply_rows(own_, n, dg + K, M, args_.H, args_.plain_second, false, d_operand(0),
                    args_.padded_H);
      in_stages(n, place_->group_barrier, [&](int64_t r) { pass_reset(t, r, frame); });
    } else {
      in_stages(n, place_->group_barrier, cells, norm);
    }
    S* const to = carry_of_h(0);
    if (args_.row.dropped) {
      for (int64_t q = own_.first; q < own_.last; ++q) {
        multiply_rows({q, q + 1}, n, dg, M, K, args_.plain_hh, false, undropped_ - q * C, C);
        for (int64_t r = 0; r < n; ++r) add_dropped(r, q, to + q * C + r * args_.padded_P);
      }
    } else {
      multiply_rows(own_of_h_, n, dg, M, K, args_.plain_hh, !is_projected(), to, args_.padded_P);
    }
    wait(place_->group_barrier);
  }
  void add_dropped(int64_t r, int64_t q, S* to) const {
    const S* const factors =
        static_cast<const S*>(args_.row.dropped) + group_->order[r] * args_.padded_H + q * C;
    for (int j = 0; j < C; j += L) {
      store(to + j, load(to + j) + load(factors + j) * load(undropped_ + r * C + j));
    }
  }

  // What the cell saved, kept or computed again.
  FC_INLINE void load_saved(const Row& row, int64_t u, const V (&prev)[kStates],
                            V (&saved)[kSaved]) const {
    if (row.saved) {
      FC_UNROLL
      for (int k = 0; k < kSaved; ++k) saved[k] = units_of(row.saved + k * args_.H, u);
      return;
    }
    V x[G], g[G], state[kStates];
    FC_UNROLL
    for (int k = 0; k < kStates; ++k) state[k] = prev[k];
    const auto h = [&](int64_t j, int64_t n) { return raw_h(row.frame, j, n); };
    gates_.load([&](int64_t j, int64_t n) { return raw_x(row.frame, j, n); }, h,
                *moments(row.frame), u, x, g);
    gates_.run(x, g, u, state, saved);
  }
  // The gradient of a new state, and that of what the zoneout kept of the old one.
  FC_INLINE V new_gradient(const Row& row, const S* carried, V given, const S* kept, int64_t u,
                           V& of_old) const {
    const V all = (row.cut ? V(S(0)) : load(carried + u)) + given;
    of_old = kept ? load(kept + u) * all : V(S(0));
    return kept ? (V(S(1)) - load(kept + u)) * all : all;
  }
  FC_INLINE V new_dh(const Row& row, int64_t u, V& of_old) const {
    return new_gradient(row, row.carry_dh, units_of(row.d_output, u), row.kept_h, u, of_old);
  }
  FC_INLINE V new_dc(const Row& row, int64_t u, V& of_old, int k = 1) const {
    return new_gradient(row, carry_dc(row, k), units_of(row.d_cells, u, k), row.kept_c, u, of_old);
  }
  S* carry_dc(const Row& row, int k = 1) const {
    return Base::template carry_dc<kStates>(row.r, k);
  }

  // Of a projected h, which is of other units, nothing.
  FC_INLINE void load_states(const Row& row, int64_t u, V (&prev)[kStates]) const {
    Entering from = row.entering;
    if (is_projected()) from.h = nullptr;
    load_entering(from, u, prev);
  }

  void run_cells(const Row& row) const {
    for (int64_t u = units_.first; u < end_of_units(); u += L) {
      V saved[kSaved], prev[kStates], next[kStates], d_state[kStates], of_old[kStates];
      V dx[G], dg[G];
      load_states(row, u, prev);
      load_saved(row, u, prev, saved);
      next[0] = of_old[0] = V(S(0));
      d_state[0] = is_projected() ? load(d_operand(row.r) + u) : new_dh(row, u, of_old[0]);
      FC_UNROLL
      for (int k = 1; k < kStates; ++k) {
        // A cell that cannot give c' again, or does not compute it anew, has no zoneout of it.
        if constexpr (requires { Cell::new_c(saved, prev[1]); }) {
          next[k] = Cell::new_c(saved, prev[1]);
        } else {
          next[k] = units_of(row.c, u, k);
        }
        d_state[k] = new_dc(row, u, of_old[k], k);
      }
      if constexpr (kVectors > 0) {
        V units[kVectors], d_units[kVectors];
        gates_.load_units(u, units);
        Cell::backward(saved, units, prev, next, d_state, dx, dg, d_units);
        add_units(u, d_units);
      } else {
        Cell::backward(saved, prev, next, d_state, dx, dg);
      }
      if (!is_projected()) store(row.carry_dh + u, d_state[0] + of_old[0]);
      FC_UNROLL
      for (int k = 1; k < kStates; ++k) store(carry_dc(row, k) + u, d_state[k] + of_old[k]);
      store_gates(row.dx, u, dx);
      if (!Cell::kAdditive) store_gates(row.dg, u, dg);
    }
  }
  template <int kCount>
  FC_INLINE void add_units(int64_t u, const V (&d_units)[kCount]) const {
    FC_UNROLL
    for (int k = 0; k < kCount; ++k) {
      S* const to =
          static_cast<S*>(args_.d_units) + (place_->group * kCount + k) * args_.padded_H + u;
      store(to, load(to) + d_units[k]);
    }
  }
  FC_INLINE void store_gates(S* to, int64_t u, const V (&values)[G]) const {
    FC_UNROLL
    for (int k = 0; k < G; ++k) store_lanes(to + k * args_.H + u, values[k], args_.H - u);
  }

  // The gate that multiplies h in front of the second product: its gradient, and what is left of
  // dh.
  void pass_reset(int64_t t, int64_t r, int64_t frame) const {
    if constexpr (kTwo) {
      const int64_t b = group_->order[r], H = args_.H;
      const T* const saved = row_of<T>(args_.saved, t * args_.B + b, args_.saved_stride);
      const T* const h = entering(t, b).h;
      S* const dx = static_cast<S*>(args_.dx_gates) + (frame + r) * G * H;
      for (int64_t u = units_.first; u < at_most(units_.last, H); u += L) {
        V of[Cell::kSaved], d_state[1] = {load(carry_of_h(r) + u)};
        for (int k = 0; k < Cell::kSaved; ++k) of[k] = units_of(saved + k * H, u);
        const V d = Cell::backward_reset(of, units_of(h, u), load(d_operand(r) + u), d_state);
        store_lanes(dx + u, d, H - u);
        store(carry_of_h(r) + u, d_state[0]);
      }
    }
  }

  // ---- a normalised c: what the cell saved; then c', the gradients of its normalised form and of
  // the gate beside it, which wait in rows of their own ----

  enum CRow : int { kNewC = kSaved, kOfNormalised, kOfGate, kCRows };
  S* c_row(const Row& row, int k) const {
    return static_cast<S*>(args_.c_rows) + (row.slot * kCRows + k) * args_.padded_H;
  }
  Moments<S> moments_of_c(const Row& row) const {
    const S* const c = c_row(row, kNewC);
    return moments_of<V>(args_.H, [&](int64_t j) { return load(c + j); });
  }

  void find_c(const Row& row) const {
    if constexpr (HasOutputGate<Cell>) {
      for (int64_t u = units_.first; u < end_of_units(); u += L) {
        V saved[kSaved], prev[kStates];
        load_entering(row.entering, u, prev);
        load_saved(row, u, prev, saved);
        FC_UNROLL
        for (int k = 0; k < kSaved; ++k) store(c_row(row, k) + u, saved[k]);
        store(c_row(row, kNewC) + u, Cell::new_c(saved, prev[1]));
      }
    }
  }
  void pass_output(const Row& row) const {
    if constexpr (HasOutputGate<Cell>) {
      const Moments<S> of = moments_of_c(row);
      S* const d_norm = static_cast<S*>(args_.d_norm_c) + place_->group * 2 * args_.padded_H;
      S* const d_bias = d_norm + args_.padded_H;
      for (int64_t u = units_.first; u < end_of_units(); u += L) {
        const int64_t n = args_.H - u;
        const V normalised = (load(c_row(row, kNewC) + u) - V(of.mean)) * V(of.scale);
        const V gain = gates_.at(args_.row.norm_c, u, n);
        V c = normalised * gain, of_old, d_gate;
        if (args_.row.norm_c_bias) c = c + gates_.at(args_.row.norm_c_bias, u, n);
        const V o = load(c_row(row, Cell::kOutputGate) + u);
        V d = Cell::output_backward(o, c, new_dh(row, u, of_old), d_gate);
        store(row.carry_dh + u, of_old);
        if (args_.row.carries_norm) d = d + new_dc(row, u, of_old);
        store(c_row(row, kOfNormalised) + u, d * gain), store(c_row(row, kOfGate) + u, d_gate);
        store(d_norm + u, load(d_norm + u) + d * normalised);
        store(d_bias + u, load(d_bias + u) + d);
      }
    }
  }
  void pass_c(const Row& row) const {
    if constexpr (HasOutputGate<Cell>) {
      const S *const c = c_row(row, kNewC), *const d = c_row(row, kOfNormalised);
      const auto gradient = [&](int64_t j) { return load(d + j); };
      const auto value = [&](int64_t j) { return load(c + j); };
      const NormBackward<V, decltype(gradient), decltype(value)> norm(args_.H, gradient, value,
                                                                      moments_of_c(row));
      for (int64_t u = units_.first; u < end_of_units(); u += L) {
        V saved[kSaved], prev[kStates], dx[G], of_old, d_previous;
        FC_UNROLL
        for (int k = 0; k < kSaved; ++k) saved[k] = load(c_row(row, k) + u);
        load_entering(row.entering, u, prev);
        const V carried = new_dc(row, u, of_old);
        const V dc = args_.row.carries_norm ? norm(u) : carried + norm(u);
        dx[Cell::kOutputGate] = load(c_row(row, kOfGate) + u);
        Cell::c_backward(saved, prev[1], dc, d_previous, dx);
        store(carry_dc(row) + u, d_previous + of_old);
        store_gates(row.dx, u, dx);
      }
    }
  }

  // Of this thread: plain panels of units, and of those of h; the units.
  Range own_{}, own_of_h_{}, units_{}, units_of_h_{};
  const RowGates<Cell, S> gates_;
  S *kept_h_, *kept_c_;     // [padded H + block]
  S* undropped_ = nullptr;  // [B][C]
};

}  // namespace
}  // namespace fastcells
