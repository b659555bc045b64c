// Checks of the recurrent kernels of a CPU at the width and instruction set that the including file
// chooses: against plain loops in double (sequence_problem.h), on teams of
// threads, in buffers that are watched and begin as NaN (guarded.h).
#pragma once
#include "layer_run.h"
#include "recurrent/cpu/kernels/table.h"

namespace fastcells {
namespace {

// The scale of a row of weights in int8.
inline double row_scale(const Values& weight, std::int64_t row, std::int64_t columns) {
  double most = 1e-30;
  for (std::int64_t k = 0; k < columns; ++k) {
    most = std::fmax(most, std::fabs(weight[row * columns + k]));
  }
  return double(float(most / 127));
}

// ---- the passes ----

template <class Cell, class T, class P>
class Run : LayerRun<Cell, T, P> {
  using Base = LayerRun<Cell, T, P>;
  using Base::G, Base::K, Base::kHasC, Base::buffers_, Base::c_, Base::p_, Base::want_;
  using Base::team_, Base::units_, Base::way_;
  using typename Base::S;
  using Sh = Shape<Cell, T, S>;

 public:
  Run(const Problem<Cell>& p, const Results& want, const Way& way, double tolerance)
      : Base(p, want, way, tolerance, divide_up(p.c.H, Sh::kUnits)) {}

  bool check() {
    set_shared();
    bool ok = check_both();
    if (c_.T == 1 && !P::kConverts) set_own_weights(), ok = ok && check_both();
    return this->is_intact() && ok;
  }
  bool check_without_keeping() {
    set_shared();
    keeps_nothing_ = true;
    forward();
    const void *const output = a_.output, *const h_n = a_.h_n, *const c_n = a_.c_n;
    bool ok = check_forward();
    is_alone_ = true;
    forward();
    const std::size_t rows = ((c_.T * c_.B - 1) * a_.output_stride + c_.H) * sizeof(T);
    const std::size_t states = c_.B * c_.H * sizeof(T);
    ok = ok && std::memcmp(output, a_.output, rows) == 0 && std::memcmp(h_n, a_.h_n, states) == 0 &&
         (!kHasC || std::memcmp(c_n, a_.c_n, states) == 0);
    if (!ok) std::printf("FAILED: alone, of %s\n", current_check);
    return ok && buffers_.are_intact();
  }

 private:
  bool check_both() {
    forward();
    return check_forward() && ((kHasC && !a_.cells) || check_backward());
  }
  // One step: the weights as they lie in the place of packs, which recomputing reads.
  void set_own_weights() {
    a_.own_weight_ih = buffers_.template holding<T>(p_.w_ih);
    a_.own_bias_ih = buffers_.template holding<T>(p_.b_ih);
    a_.own_weight_hh = buffers_.template holding<T>(p_.w_hh);
    a_.own_bias_hh = buffers_.template holding<T>(p_.b_hh);
  }
  template <class X>
  X* empty(std::int64_t count) {
    return buffers_.template empty<X>(count);
  }

  void set_shared() {
    this->set_layer(a_);
    a_.panels_ih = pack(p_.w_ih, p_.b_ih, c_.I, a_.bias_ih);
    a_.panels_hh = pack(p_.w_hh, p_.b_hh, c_.H, a_.bias_hh);
    a_.saved_stride = K * c_.H + 1;
  }
  const void* pack(const Values& weight, const Values& bias, std::int64_t columns,
                   const void*& bias_panels) {
    const float* scales = nullptr;
    const typename P::Weight* from;
    if constexpr (std::is_same_v<typename P::Row, Int8Quad>) {
      from = quantized(weight, columns, scales);
    } else {
      from = buffers_.template holding<T>(weight);
    }
    return Base::template pack<Cell>(from, scales, bias, c_.H, columns, bias_panels);
  }
  // Weights that are multiples of their row's scale, the largest of them 127.
  const std::int8_t* quantized(const Values& weight, std::int64_t columns, const float*& scales) {
    const std::int64_t rows = G * c_.H;
    auto* const to = empty<std::int8_t>(rows * columns);
    auto* const scale = empty<float>(rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const double unit = row_scale(weight, r, columns);
      scale[r] = float(unit);
      for (std::int64_t k = 0; k < columns; ++k) {
        to[r * columns + k] = std::int8_t(std::lround(weight[r * columns + k] / unit));
      }
    }
    scales = scale;
    return to;
  }

  void forward() {
    const bool keeps_gates = !way_.recompute && !keeps_nothing_;
    this->set_outputs(a_, !keeps_nothing_);
    a_.saved = keeps_gates ? this->template rows_of<T>(K * c_.H, a_.saved_stride) : nullptr;
    a_.carry_h = empty<S>(2 * c_.B * a_.padded_H);
    const std::int64_t own_panels = divide_up(divide_up(c_.H, Sh::kUnits), units_);
    const std::size_t bytes = Forward<Cell, T, P>::scratch_bytes(a_, own_panels, team_.most_rows());
    if (is_alone_) {
      return team_.run_alone(bytes, buffers_, [this](const cpu::Place* places, int count) {
        forward_alone<Cell, T, P>(a_, places, count);
      });
    }
    team_.run(bytes, buffers_,
              [this](const cpu::Place& place) { fastcells::forward<Cell, T, P>(a_, place); });
  }
  bool check_forward() const {
    return this->check_outputs(a_) &&
           this->template compare<T>(
               a_.saved, {"saved", want_.saved, c_.T * c_.B, K * c_.H, a_.saved_stride});
  }

  bool check_backward() {
    cpu::BackwardArgs b{};
    static_cast<cpu::LayerArgs&>(b) = a_;
    b.output = a_.output, b.cells = a_.cells, b.saved = a_.saved;
    this->set_gradients(b);
    this->set_scratch(b);
    if (way_.recompute) b.saved_again = empty<S>(b.chunk_frames * K * c_.H);
    const std::size_t bytes = Backward<Cell, T, P>::scratch_bytes(b);
    team_.run(bytes, buffers_, [&b](const cpu::Place& place) { backward<Cell, T, P>(b, place); });
    return this->check_gradients(b);
  }

  cpu::ForwardArgs a_{};
  bool is_alone_ = false, keeps_nothing_ = false;
};

// One step, the weights as they lie: units in two shares.
template <class Cell, class T, class S>
bool check_step(const Problem<Cell>& p, const Results& want, double tolerance) {
  constexpr bool kHasC = Cell::kStates == 2;
  const std::int64_t H = p.c.H, B = p.c.B, middle = at_most(H, Vector<S>::kLanes);
  Buffers buffers;
  const auto stored = [&](const Values& values) { return buffers.holding<T>(values); };
  T* const h = buffers.empty<T>(B * H);
  T* const c = kHasC ? buffers.empty<T>(B * H) : nullptr;
  const cpu::StepArgs a{B,
                        p.c.I,
                        H,
                        buffers.holding<S>(p.input),
                        buffers.holding<S>(p.h_0),
                        kHasC ? stored(p.c_0) : nullptr,
                        stored(p.w_ih),
                        stored(p.w_hh),
                        stored(p.b_ih),
                        stored(p.b_hh),
                        h,
                        c,
                        nullptr,
                        nullptr};
  for (std::int64_t b = 0; b < B; ++b) {
    Step<Cell, T, S>(a).run(b, {middle, H});
    Step<Cell, T, S>(a).run(b, {0, middle});
  }
  const bool ok = equals(h, {"h_new", want.h_n, B, H, H}, tolerance) &&
                  (!c || equals(c, {"c_new", want.c_n, B, H, H}, tolerance));
  return ok && buffers.are_intact();
}

}  // namespace
}  // namespace fastcells
