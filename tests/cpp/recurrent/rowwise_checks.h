// Checks of the CPU's kernels of layers that look at whole rows, at the width and instruction set
// that the including file chooses: against plain loops in double (rowwise_problem.h), on teams of
// threads, in buffers that are watched and begin as NaN (guarded.h).
#pragma once
#include "layer_run.h"
#include "recurrent/rowwise/cpu/kernels/backward.h"
#include "recurrent/rowwise/cpu/kernels/forward.h"
#include "rowwise_problem.h"

namespace fastcells {
namespace {

template <class Cell, class T, class P>
class RowwiseRun : LayerRun<Cell, T, P> {
  using Base = LayerRun<Cell, T, P>;
  using Base::buffers_, Base::c_, Base::p_, Base::team_, Base::way_;
  using Base::G, Base::K, Base::kHasC, Base::C;
  using typename Base::S;
  static constexpr std::int64_t kVectors = vectors_of<Cell>();
  static constexpr bool kTwo = Cell::kTwoProducts;

 public:
  RowwiseRun(const RowwiseProblem<Cell>& p, const RowwiseResults& want, const Way& way,
             double tolerance)
      : Base(p, want, way, tolerance, divide_up(p.c.H, C)),
        problem_(p),
        row_(p.row),
        gains_(want),
        gates_(G * p.c.H),
        of_h_(kTwo ? gates_ - p.c.H : gates_),
        groups_(at_most(way.groups, p.c.B)) {}

  bool check() {
    forward(true);
    const bool ok = check_forward() && check_backward();
    return this->is_intact() && ok;
  }
  bool check_without_keeping() {
    forward(false);
    const bool ok = check_forward();
    return this->is_intact() && ok;
  }

 private:
  template <class X>
  X* empty(std::int64_t count) {
    return buffers_.template empty<X>(count);
  }
  // In the arithmetic type, nullptr for none.
  S* holding(const Values& values) { return buffers_.template holding<S>(values); }
  // Rows of gates: a vector may be read from the last column on.
  S* gate_rows(std::int64_t rows) { return empty<S>(rows * this->padded(gates_) + C); }

  rowwise::RowArgs row_args() {
    rowwise::RowArgs row{};
    row.norm = row_.norm, row.noise = row_.noise;
    row.padded_gates = this->padded(gates_);
    row.norm_ih = holding(problem_.norm_ih), row.norm_hh = holding(problem_.norm_hh);
    row.norm_c = holding(problem_.norm_c), row.norm_c_bias = holding(problem_.norm_c_bias);
    row.carries_norm = row_.carries_norm();
    row.unit_weights = holding(problem_.unit_weights);
    row.second = c_.P   ? rowwise::Second::kProjection
                 : kTwo ? rowwise::Second::kLastGate
                        : rowwise::Second::kNone;
    if (row_.noise.drops()) row.dropped = empty<S>(c_.B * this->padded(c_.H));
    return row;
  }
  void set_panels(cpu::LayerArgs& a) {
    a.panels_ih = pack_columns(p_.w_ih, p_.b_ih, c_.I, a.bias_ih);
    a.panels_hh = pack_columns(slice(p_.w_hh, 0, of_h_), slice(p_.b_hh, 0, of_h_), a.P, a.bias_hh);
  }
  const void* pack_columns(const Values& weight, const Values& bias, std::int64_t columns,
                           const void*& panels) {
    const T* const from = buffers_.template holding<T>(weight);
    const auto rows = std::int64_t(weight.size()) / columns;
    return this->template pack<Columns>(from, nullptr, bias, rows, columns, panels);
  }
  // Rows of a matrix or vector of all gates, or of none.
  Values slice(const Values& all, std::int64_t first, std::int64_t last) const {
    const auto width = std::int64_t(all.size()) / gates_;
    return Values(all.begin() + first * width, all.begin() + last * width);
  }
  Values second_weight() const { return c_.P ? p_.w_hr : slice(p_.w_hh, of_h_, gates_); }
  void set_second(rowwise::ForwardArgs& a) {
    if (a.row.second == rowwise::Second::kNone) return;
    const Values bias = c_.P ? Values{} : slice(p_.b_hh, of_h_, gates_);
    a.panels_second = pack_columns(second_weight(), bias, c_.H, a.bias_second);
    a.operand = empty<S>(c_.B * a.padded_H), a.product = empty<S>(c_.B * a.padded_P);
  }
  void set_second(rowwise::BackwardArgs& b) {
    if (b.row.second == rowwise::Second::kNone) return;
    b.plain_hh = this->pack_whole(slice(p_.w_hh, 0, of_h_), b.P);
    b.plain_second = this->pack_whole(second_weight(), c_.H);
    b.d_operand = empty<S>(c_.B * b.padded_H);
    b.plain_operand = empty<S>(b.padded_H * b.chunk_frames);
    if (!c_.P) return;
    b.d_projected = empty<S>(b.chunk_frames * c_.P), b.d_weight_hr = empty<S>(c_.P * c_.H);
  }

  // f(X): how `saved` is stored.
  template <class F>
  void with_saved_type(const F& f) const {
    row_.norm == Norm::kNone ? f(T{}) : f(S{});
  }
  std::int64_t saved_width() const {
    if (row_.norm == Norm::kNone) return (K + (c_.P ? 1 : 0)) * c_.H;
    return row_.norm == Norm::kParts ? 2 * gates_ : gates_;
  }
  void forward(bool keeps) {
    this->set_layer(a_), set_panels(a_), this->set_outputs(a_, keeps);
    a_.row = row_args();
    a_.saved_stride = saved_width();
    if (keeps && (!way_.recompute || a_.row.second != rowwise::Second::kNone)) {
      with_saved_type([&](auto x) {
        a_.saved = this->template rows_of<decltype(x)>(saved_width(), a_.saved_stride);
      });
    }
    a_.carry_h = empty<S>(c_.B * a_.padded_P), set_second(a_);
    if (a_.row.dropped) a_.carry_dropped = empty<S>(c_.B * a_.padded_H);
    if (a_.row.norm_c) a_.new_c = empty<S>(2 * c_.B * a_.padded_H);
    a_.x_gates = gate_rows(groups_ * a_.chunk_frames), a_.h_gates = gate_rows(c_.B);
    a_.x_moments = empty<S>(groups_ * a_.chunk_frames * 2);
    using Kernel = RowwiseForward<Cell, T, P>;
    team_.run(Kernel::scratch_bytes(a_), buffers_,
              [this](const cpu::Place& place) { Kernel(a_, place).run(); });
  }
  bool check_forward() const {
    bool ok = this->check_outputs(a_);
    with_saved_type([&](auto x) {
      const Expected saved{"saved", gains_.saved, c_.T * c_.B, saved_width(), a_.saved_stride};
      ok = ok && this->template compare<decltype(x)>(a_.saved, saved);
    });
    return ok;
  }

  bool check_backward() {
    rowwise::BackwardArgs b{};
    static_cast<cpu::LayerArgs&>(b) = a_;
    b.row = row_args();
    b.output = a_.output, b.cells = a_.cells, b.saved = a_.saved;
    if (a_.saved) b.bias_ih = holding(p_.b_ih), b.bias_hh = holding(p_.b_hh);
    this->set_gradients(b), this->set_scratch(b), set_second(b);
    if (!b.saved) b.raw_again = gate_rows(2 * b.chunk_frames);
    b.moments = empty<S>(b.chunk_frames * 8);
    b.dg_raw = row_.norm == Norm::kNone ? b.dg_gates : empty<S>(b.chunk_frames * gates_);
    if (row_.norm == Norm::kParts) b.d_norm_ih = empty<S>(gates_);
    if (row_.norm != Norm::kNone) b.d_norm_hh = empty<S>(gates_);
    if (row_.normalises_c()) {
      b.c_rows = empty<S>(c_.B * (K + 3) * b.padded_H);
      b.d_norm_c = holding(Values(groups_ * 2 * b.padded_H, 0));
    }
    b.d_units = holding(Values(groups_ * kVectors * b.padded_H, 0));
    using Kernel = RowwiseBackward<Cell, T, P>;
    team_.run(Kernel::scratch_bytes(b), buffers_,
              [&b](const cpu::Place& place) { Kernel(b, place).run(); });
    return this->check_gradients(b) && check_gains(b);
  }
  bool check_gains(const rowwise::BackwardArgs& b) {
    const auto check = [&](const void* got, const char* name, const Values& want) {
      const auto width = std::int64_t(want.size());
      return this->template compare<S>(got, {name, want, 1, width, width});
    };
    bool ok = check(b.d_norm_ih, "d_norm_ih", gains_.d_norm_ih);
    ok = ok && check(b.d_norm_hh, "d_norm_hh", gains_.d_norm_hh);
    ok = ok && check(sums_of_groups(b.d_units, kVectors), "d_units", gains_.d_units);
    Values of_c = gains_.d_norm_c;
    of_c.insert(of_c.end(), gains_.d_norm_c_bias.begin(), gains_.d_norm_c_bias.end());
    ok = ok && check(b.d_weight_hr, "d_weight_hr", gains_.d_w_hr);
    return ok && check(sums_of_groups(b.d_norm_c, 2), "d_norm_c and its bias", of_c);
  }
  // Of [groups][vectors][padded H], or nullptr.
  const S* sums_of_groups(const void* parts, std::int64_t vectors) {
    Values sums(parts ? vectors * c_.H : 0);
    for (std::int64_t i = 0; i < groups_ * std::int64_t(sums.size()); ++i) {
      const std::int64_t row = i / c_.H, u = i % c_.H;
      sums[row % vectors * c_.H + u] += static_cast<const S*>(parts)[row * a_.padded_H + u];
    }
    return holding(sums);
  }

  const RowwiseProblem<Cell>& problem_;
  const RowwiseCase& row_;
  const RowwiseResults& gains_;
  const std::int64_t gates_, of_h_, groups_;  // of_h: rows of W_hh that meet h itself
  rowwise::ForwardArgs a_{};
};

}  // namespace
}  // namespace fastcells
