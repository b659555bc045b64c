// What the checks of the CPU's recurrent kernels share: storage, watched buffers (guarded.h), their
// comparison with plain loops in double, and the arguments of a layer that do not depend on the
// engine, at the width and instruction set that the including file chooses.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>

#include "guarded.h"
#include "recurrent/cpu/kernels/chunk_products.h"
#include "sequence_problem.h"
#include "sequence_team.h"

namespace fastcells {
namespace {

// ---- storage ----

inline double widen(float x) { return x; }
inline double widen(double x) { return x; }
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

// ---- what every engine takes and gives ----

template <class Cell, class T, class P>
class LayerRun {
 protected:
  using S = typename P::S;
  static constexpr int G = Cell::kGates, K = Cell::kSaved;
  static constexpr bool kHasC = Cell::kStates == 2;
  static constexpr std::int64_t C = Shape<Cell, T, S>::kColumns;

  // `panels`: of units, which threads share.
  LayerRun(const Problem<Cell>& p, const Results& want, const Way& way, double tolerance,
           std::int64_t panels)
      : p_(p),
        c_(p.c),
        want_(want),
        way_(way),
        tolerance_(tolerance),
        units_(int(at_most(way.units, panels))),
        team_(p, int(at_most(way.groups, c_.B)), units_) {}

  template <class X>
  X* empty(std::int64_t count) {
    return buffers_.empty<X>(count);
  }
  // [rows][stride], the last row without what lies between rows.
  template <class X>
  X* rows_of(std::int64_t width, std::int64_t stride) {
    return empty<X>((c_.T * c_.B - 1) * stride + width);
  }
  static std::int64_t padded(std::int64_t n) { return divide_up(n, C) * C; }

  // All but the weights and how far apart the rows of `saved` are.
  void set_layer(cpu::LayerArgs& a) {
    a.T = c_.T, a.B = c_.B, a.I = c_.I, a.H = c_.H, a.padded_H = padded(c_.H);
    a.P = c_.units_of_h(), a.padded_P = padded(a.P);
    a.reverse = c_.reverse;
    a.input = buffers_.holding<T>(p_.input), a.h_0 = buffers_.holding<T>(p_.h_0);
    a.c_0 = kHasC ? buffers_.holding<T>(p_.c_0) : nullptr;
    a.lengths = c_.lengths ? p_.lengths.data() : nullptr;
    a.resets = c_.resets ? reinterpret_cast<const bool*>(p_.resets.data()) : nullptr;
    a.output_stride = a.P + 3, a.cells_stride = c_.H + 2;
  }
  // Panels of a weight of `units` units of the cell as which it is packed.
  template <class Packed>
  const void* pack(const typename P::Weight* weight, const float* scales, const Values& bias,
                   std::int64_t units, std::int64_t columns, const void*& bias_panels) {
    using Sh = Shape<Packed, T, S>;
    const std::int64_t count = divide_up(units, Sh::kUnits);
    auto* const panels = empty<char>(count * P::template bytes<Sh::R>(columns));
    S* const biases = bias.empty() ? nullptr : empty<S>(count * Sh::R * Sh::L);
    const T* const bias_from = buffers_.holding<T>(bias);
    for (std::int64_t q = count; q-- > 0;) {
      pack_gates<Packed, T, P>(weight, scales, bias_from, units, columns, q, q + 1, panels, biases);
    }
    bias_panels = biases;
    return panels;
  }
  const void* pack_whole(const Values& weight, std::int64_t columns) {
    using Sh = Shape<Cell, T, S>;
    const std::int64_t count = divide_up(columns, C), rows = std::int64_t(weight.size()) / columns;
    auto* const panels = empty<char>(count * P::template bytes<Sh::kPlain>(rows));
    pack_plain<Cell, T, P>(buffers_.holding<T>(weight), rows, columns, 0, count, panels);
    return panels;
  }

  void set_outputs(cpu::ForwardArgs& a, bool keeps_cells) {
    a.chunk_frames = way_.large_chunks ? c_.T * c_.B + 3 : team_.most_rows();
    a.output = rows_of<T>(a.P, a.output_stride), a.h_n = empty<T>(c_.B * a.P);
    if (kHasC) a.c_n = empty<T>(c_.B * c_.H), a.carry_c = empty<S>(c_.B * a.padded_H);
    a.cells = kHasC && keeps_cells ? rows_of<S>(c_.H, a.cells_stride) : nullptr;
  }
  template <class X>
  bool compare(const void* got, const Expected& want) const {
    return !got || equals(static_cast<const X*>(got), want, tolerance_);
  }
  bool check_outputs(const cpu::ForwardArgs& a) const {
    const std::int64_t rows = c_.T * c_.B, H = c_.H;
    bool ok = compare<T>(a.output, {"output", want_.output, rows, a.P, a.output_stride});
    ok = ok && compare<T>(a.h_n, {"h_n", want_.h_n, c_.B, a.P, a.P});
    ok = ok && compare<T>(a.c_n, {"c_n", want_.c_n, c_.B, H, H});
    return ok && compare<S>(a.cells, {"cells", want_.cells, rows, H, a.cells_stride});
  }

  // The way back of what the forward pass gave: gradients given and asked for, scratch.
  void set_gradients(cpu::BackwardArgs& b) {
    const std::int64_t gates = G * c_.H;
    // As far apart as the states that they are the gradients of.
    const auto spread = [&](auto zero, const Values& values, std::int64_t width,
                            std::int64_t stride) {
      using X = decltype(zero);
      X* const to = rows_of<X>(width, stride);
      for (std::int64_t i = 0; i < c_.T * c_.B * width; ++i) {
        to[i / width * stride + i % width] = narrow<X>(values[i]);
      }
      return to;
    };
    b.chunk_frames = way_.large_chunks ? c_.T * c_.B + 3 : c_.B;
    b.d_output = spread(T{}, p_.d_output, b.P, b.output_stride);
    b.d_h_n = buffers_.holding<T>(p_.d_h_n), b.d_h_0 = empty<S>(c_.B * b.P);
    if (kHasC) {
      b.d_cells = spread(S{}, p_.d_cells, c_.H, b.cells_stride);
      b.d_c_n = buffers_.holding<T>(p_.d_c_n), b.d_c_0 = empty<S>(c_.B * c_.H);
    }
    b.d_input = empty<S>(c_.T * c_.B * c_.I);
    d_input_ = want_.d_input;
    if (way_.add_to_d_input) set_addend(b);
    b.d_weight_ih = empty<S>(gates * c_.I), b.d_weight_hh = empty<S>(gates * b.P);
    if (c_.bias) b.d_bias_ih = empty<S>(gates), b.d_bias_hh = empty<S>(gates);
  }
  void set_scratch(cpu::BackwardArgs& b) {
    const std::int64_t gates = G * c_.H;
    b.plain_hh = pack_whole(p_.w_hh, b.P), b.plain_ih = pack_whole(p_.w_ih, c_.I);
    b.carry_dh = empty<S>(c_.B * b.padded_P);
    if (kHasC) b.carry_dc = empty<S>(c_.B * b.padded_H);
    b.dx_gates = empty<S>(b.chunk_frames * gates);
    b.dg_gates = Cell::kAdditive ? b.dx_gates : empty<S>(b.chunk_frames * gates);
    const std::int64_t frames = std::max(b.chunk_frames, cpu::kLeastPanelFrames);
    b.plain_x = empty<S>(padded(c_.I) * frames), b.plain_h = empty<S>(b.padded_P * frames);
  }
  bool check_gradients(const cpu::BackwardArgs& b) const {
    const std::int64_t H = c_.H, gates = G * H;
    bool ok = compare<S>(b.d_input, {"d_input", d_input_, c_.T * c_.B, c_.I, c_.I});
    ok = ok && compare<S>(b.d_weight_ih, {"d_weight_ih", want_.d_w_ih, gates, c_.I, c_.I});
    ok = ok && compare<S>(b.d_weight_hh, {"d_weight_hh", want_.d_w_hh, gates, b.P, b.P});
    ok = ok && compare<S>(b.d_bias_ih, {"d_bias_ih", want_.d_b_ih, 1, gates, gates});
    ok = ok && compare<S>(b.d_bias_hh, {"d_bias_hh", want_.d_b_hh, 1, gates, gates});
    ok = ok && compare<S>(b.d_h_0, {"d_h_0", want_.d_h_0, c_.B, b.P, b.P});
    return ok && compare<S>(b.d_c_0, {"d_c_0", want_.d_c_0, c_.B, H, H});
  }
  bool is_intact() const {
    if (!buffers_.are_intact()) std::printf("FAILED: in front of a buffer of %s\n", current_check);
    return buffers_.are_intact();
  }

  const Problem<Cell>& p_;
  const Case& c_;
  const Results& want_;
  const Way way_;
  const double tolerance_;
  const int units_;
  const Team team_;
  Buffers buffers_;

 private:
  void set_addend(cpu::BackwardArgs& b) {
    b.add_to_d_input = true;
    for (std::size_t i = 0; i < d_input_.size(); ++i) {
      if (std::isnan(d_input_[i])) continue;
      static_cast<S*>(b.d_input)[i] = S(i % 7);
      d_input_[i] += double(i % 7);
    }
  }

  Values d_input_;
};

}  // namespace
}  // namespace fastcells
