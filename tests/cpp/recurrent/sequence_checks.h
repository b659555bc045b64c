// Checks of the recurrent kernels of a CPU at the width and instruction set that the including file
// chooses: against plain loops in double (sequence_problem.h), on teams of
// threads, in buffers that are watched and begin as NaN (guarded.h).
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>

#include "guarded.h"
#include "recurrent/cpu/kernels/table.h"
#include "sequence_problem.h"
#include "sequence_team.h"

namespace fastcells {
namespace {

// ---- storage ----

inline double widen(float x) { return x; }
inline double widen(BFloat16Bits x) {
  const std::uint32_t bits = std::uint32_t(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}
inline double widen(HalfBits x) { return load_first(&x, 1).v[0]; }  // tests/cpp/vector_checks.h
template <class T>
T narrow(double x) {
  if constexpr (sizeof(T) == 2) {
    T result;
    store_first(&result, Vector<float>(float(x)), 1);  // tests/cpp/vector_checks.h
    return result;
  } else {
    return T(x);
  }
}
template <class T>
double rounded(double x) {
  return widen(narrow<T>(x));
}

// The scale of a row of weights in int8.
inline double row_scale(const Values& weight, std::int64_t row, std::int64_t columns) {
  double most = 1e-30;
  for (std::int64_t k = 0; k < columns; ++k) {
    most = std::fmax(most, std::fabs(weight[row * columns + k]));
  }
  return double(float(most / 127));
}

// ---- one way to run a problem ----

struct Way {
  int groups, units;  // of rows, threads that share the units
  bool large_chunks;  // all frames at once, or as few as may be
  bool recompute;     // the gates are computed again on the way back
  bool add_to_d_input;
};

// All buffers of a run, each in watched memory.
class Buffers {
 public:
  template <class X>
  X* empty(std::int64_t count) {
    all_.push_back(std::make_unique<Guarded<unsigned char>>(count * std::int64_t(sizeof(X))));
    return reinterpret_cast<X*>(all_.back()->data());
  }
  // nullptr for none.
  template <class X>
  X* holding(const Values& values) {
    if (values.empty()) return nullptr;
    X* const p = empty<X>(std::int64_t(values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) p[i] = narrow<X>(values[i]);
    return p;
  }
  bool are_intact() const {
    return std::all_of(all_.begin(), all_.end(), [](const auto& b) { return b->is_intact(); });
  }

 private:
  std::vector<std::unique_ptr<Guarded<unsigned char>>> all_;
};

// ---- comparison ----

// Largest error of this program over what is allowed, to show how close the limit is.
inline double worst_share = 0;

struct Expected {
  const char* name;
  const Values& values;
  std::int64_t rows, width, stride;
};

template <class X>
bool equals(const X* got, const Expected& want, double tolerance) {
  double scale = 1;
  for (const double value : want.values) scale = std::fmax(scale, std::fabs(value));
  for (std::int64_t row = 0; row < want.rows; ++row) {
    for (std::int64_t k = 0; k < (row + 1 < want.rows ? want.stride : want.width); ++k) {
      const X& found = got[row * want.stride + k];
      const bool is_outside = k >= want.width;
      const double value = is_outside ? NAN : want.values[row * want.width + k];
      const double share = std::fabs(widen(found) - value) / scale / tolerance;
      if (std::isnan(value) ? is_untouched(found) : share <= 1) {
        if (share > worst_share) worst_share = share;
        continue;
      }
      std::printf("FAILED: %s of %s: at row %ld, column %ld got %.9g, expected %.9g%s\n", want.name,
                  current_check, long(row), long(k), widen(found), value,
                  is_outside          ? " (is between rows)"
                  : std::isnan(value) ? " (left alone)"
                                      : "");
      return false;
    }
  }
  return true;
}

// ---- the passes ----

template <class Cell, class T, class P>
class Run {
  using S = typename P::S;
  using Sh = Shape<Cell, T, S>;
  static constexpr int G = Cell::kGates, K = Cell::kSaved;
  static constexpr bool kHasC = Cell::kStates == 2;

 public:
  Run(const Problem<Cell>& p, const Results& want, const Way& way, double tolerance)
      : p_(p),
        c_(p.c),
        want_(want),
        way_(way),
        tolerance_(tolerance),
        panels_(divide_up(c_.H, Sh::kUnits)),
        units_(int(at_most(way.units, panels_))),
        team_(p, int(at_most(way.groups, c_.B)), units_) {}

  bool check() {
    set_shared();
    bool ok = check_both();
    if (c_.T == 1 && !P::kConverts) set_own_weights(), ok = ok && check_both();
    if (!buffers_.are_intact()) std::printf("FAILED: in front of a buffer of %s\n", current_check);
    return ok && buffers_.are_intact();
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
    a_.own_weight_ih = buffers_.holding<T>(p_.w_ih), a_.own_bias_ih = buffers_.holding<T>(p_.b_ih);
    a_.own_weight_hh = buffers_.holding<T>(p_.w_hh), a_.own_bias_hh = buffers_.holding<T>(p_.b_hh);
  }
  template <class X>
  X* empty(std::int64_t count) {
    return buffers_.empty<X>(count);
  }
  // [rows][stride], the last row without what lies between rows.
  template <class X>
  X* rows_of(std::int64_t width, std::int64_t stride) {
    return empty<X>((c_.T * c_.B - 1) * stride + width);
  }
  std::int64_t padded(std::int64_t n) const { return divide_up(n, Sh::kColumns) * Sh::kColumns; }

  void set_shared() {
    a_.T = c_.T, a_.B = c_.B, a_.I = c_.I, a_.H = c_.H, a_.padded_H = padded(c_.H);
    a_.reverse = c_.reverse;
    a_.input = buffers_.holding<T>(p_.input), a_.h_0 = buffers_.holding<T>(p_.h_0);
    a_.c_0 = kHasC ? buffers_.holding<T>(p_.c_0) : nullptr;
    a_.lengths = c_.lengths ? p_.lengths.data() : nullptr;
    a_.resets = c_.resets ? reinterpret_cast<const bool*>(p_.resets.data()) : nullptr;
    a_.panels_ih = pack(p_.w_ih, p_.b_ih, c_.I, a_.bias_ih);
    a_.panels_hh = pack(p_.w_hh, p_.b_hh, c_.H, a_.bias_hh);
    a_.output_stride = c_.H + 3, a_.cells_stride = c_.H + 2, a_.saved_stride = K * c_.H + 1;
  }
  const void* pack(const Values& weight, const Values& bias, std::int64_t columns,
                   const void*& bias_panels) {
    constexpr std::int64_t kWidth = Sh::R * Sh::L;
    auto* const panels = empty<char>(panels_ * P::template bytes<Sh::R>(columns));
    S* const biases = bias.empty() ? nullptr : empty<S>(panels_ * kWidth);
    const float* scales = nullptr;
    const typename P::Weight* from;
    if constexpr (std::is_same_v<P, QuadPanels>) {
      from = quantized(weight, columns, scales);
    } else {
      from = buffers_.holding<T>(weight);
    }
    const T* const bias_from = buffers_.holding<T>(bias);
    for (std::int64_t q = panels_; q-- > 0;) {
      pack_gates<Cell, T, P>(from, scales, bias_from, c_.H, columns, q, q + 1, panels, biases);
    }
    bias_panels = biases;
    return panels;
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
  const void* pack_whole(const Values& weight, std::int64_t columns) {
    const std::int64_t count = divide_up(columns, Sh::kColumns);
    auto* const panels = empty<char>(count * P::template bytes<Sh::kPlain>(G * c_.H));
    pack_plain<Cell, T, P>(buffers_.holding<T>(weight), G * c_.H, columns, 0, count, panels);
    return panels;
  }

  void forward() {
    const bool keeps_gates = !way_.recompute && !keeps_nothing_;
    a_.chunk_frames = way_.large_chunks ? c_.T * c_.B + 3 : team_.most_rows();
    a_.output = rows_of<T>(c_.H, a_.output_stride), a_.h_n = empty<T>(c_.B * c_.H);
    a_.saved = keeps_gates ? rows_of<T>(K * c_.H, a_.saved_stride) : nullptr;
    a_.carry_h = empty<S>(2 * c_.B * a_.padded_H);
    if (kHasC) {
      a_.c_n = empty<T>(c_.B * c_.H), a_.carry_c = empty<S>(c_.B * a_.padded_H);
      a_.cells = keeps_nothing_ ? nullptr : rows_of<S>(c_.H, a_.cells_stride);
    }
    const std::size_t bytes =
        Forward<Cell, T, P>::scratch_bytes(a_, divide_up(panels_, units_), team_.most_rows());
    if (is_alone_) {
      return team_.run_alone(bytes, buffers_, [this](const cpu::Place* places, int count) {
        forward_alone<Cell, T, P>(a_, places, count);
      });
    }
    team_.run(bytes, buffers_,
              [this](const cpu::Place& place) { Forward<Cell, T, P>(a_, place).run(); });
  }
  bool check_forward() const {
    const std::int64_t rows = c_.T * c_.B, H = c_.H;
    bool ok = compare<T>(a_.output, {"output", want_.output, rows, H, a_.output_stride});
    ok = ok && compare<T>(a_.h_n, {"h_n", want_.h_n, c_.B, H, H});
    ok = ok && compare<T>(a_.c_n, {"c_n", want_.c_n, c_.B, H, H});
    ok = ok && compare<S>(a_.cells, {"cells", want_.cells, rows, H, a_.cells_stride});
    return ok && compare<T>(a_.saved, {"saved", want_.saved, rows, K * H, a_.saved_stride});
  }
  template <class X>
  bool compare(const void* got, const Expected& want) const {
    return !got || equals(static_cast<const X*>(got), want, tolerance_);
  }

  bool check_backward() {
    cpu::BackwardArgs b{};
    static_cast<cpu::LayerArgs&>(b) = a_;
    const std::int64_t H = c_.H, gates = G * H;
    b.chunk_frames = way_.large_chunks ? c_.T * c_.B + 3 : c_.B;
    b.output = a_.output, b.cells = a_.cells, b.saved = a_.saved;
    Values sum = want_.d_input;
    set_gradients(b);
    set_scratch(b);
    if (way_.add_to_d_input) {
      b.add_to_d_input = true;
      for (std::size_t i = 0; i < sum.size(); ++i) {
        if (std::isnan(sum[i])) continue;
        static_cast<S*>(b.d_input)[i] = S(i % 7);
        sum[i] += double(i % 7);
      }
    }
    const std::size_t bytes = Backward<Cell, T, P>::scratch_bytes(b);
    team_.run(bytes, buffers_,
              [&b](const cpu::Place& place) { Backward<Cell, T, P>(b, place).run(); });
    bool ok = compare<S>(b.d_input, {"d_input", sum, c_.T * c_.B, c_.I, c_.I});
    ok = ok && compare<S>(b.d_weight_ih, {"d_weight_ih", want_.d_w_ih, gates, c_.I, c_.I});
    ok = ok && compare<S>(b.d_weight_hh, {"d_weight_hh", want_.d_w_hh, gates, H, H});
    ok = ok && compare<S>(b.d_bias_ih, {"d_bias_ih", want_.d_b_ih, 1, gates, gates});
    ok = ok && compare<S>(b.d_bias_hh, {"d_bias_hh", want_.d_b_hh, 1, gates, gates});
    ok = ok && compare<S>(b.d_h_0, {"d_h_0", want_.d_h_0, c_.B, H, H});
    return ok && compare<S>(b.d_c_0, {"d_c_0", want_.d_c_0, c_.B, H, H});
  }
  void set_gradients(cpu::BackwardArgs& b) {
    const std::int64_t gates = G * c_.H;
    // As far apart as the states that they are the gradients of.
    const auto spread = [&](auto zero, const Values& values, std::int64_t stride) {
      using X = decltype(zero);
      X* const to = rows_of<X>(c_.H, stride);
      for (std::int64_t i = 0; i < c_.T * c_.B * c_.H; ++i) {
        to[i / c_.H * stride + i % c_.H] = narrow<X>(values[i]);
      }
      return to;
    };
    b.d_output = spread(T{}, p_.d_output, b.output_stride);
    b.d_h_n = buffers_.holding<T>(p_.d_h_n), b.d_h_0 = empty<S>(c_.B * c_.H);
    if (kHasC) {
      b.d_cells = spread(S{}, p_.d_cells, b.cells_stride);
      b.d_c_n = buffers_.holding<T>(p_.d_c_n), b.d_c_0 = empty<S>(c_.B * c_.H);
    }
    b.d_input = empty<S>(c_.T * c_.B * c_.I);
    b.d_weight_ih = empty<S>(gates * c_.I), b.d_weight_hh = empty<S>(gates * c_.H);
    if (c_.bias) b.d_bias_ih = empty<S>(gates), b.d_bias_hh = empty<S>(gates);
  }
  void set_scratch(cpu::BackwardArgs& b) {
    const std::int64_t gates = G * c_.H;
    b.plain_hh = pack_whole(p_.w_hh, c_.H), b.plain_ih = pack_whole(p_.w_ih, c_.I);
    b.carry_dh = empty<S>(c_.B * b.padded_H);
    if (kHasC) b.carry_dc = empty<S>(c_.B * b.padded_H);
    b.dx_gates = empty<S>(b.chunk_frames * gates);
    b.dg_gates = Cell::kAdditive ? b.dx_gates : empty<S>(b.chunk_frames * gates);
    if (way_.recompute) b.saved_again = empty<S>(b.chunk_frames * K * c_.H);
    b.plain_x = empty<S>(padded(c_.I) * b.chunk_frames);
    b.plain_h = empty<S>(padded(c_.H) * b.chunk_frames);
  }

  const Problem<Cell>& p_;
  const Case& c_;
  const Results& want_;
  const Way way_;
  bool is_alone_ = false;
  const double tolerance_;
  const std::int64_t panels_;
  const int units_;
  const Team team_;
  Buffers buffers_;
  cpu::ForwardArgs a_{};
  bool keeps_nothing_ = false;
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
                        c};
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
