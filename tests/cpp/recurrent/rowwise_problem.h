// A random layer that looks at whole rows, and its results and gradients by plain loops in double:
// sequence_problem.h with norms, zoneout and dropout of h. The equations: docs/normalised.md; which
// unit is drawn: recurrent/rowwise/noise.h, by the scalar Philox. Torch-free.
#pragma once
#include "recurrent/cells/dispatch.h"
#include "recurrent/rowwise/cpu/kernels/args.h"
#include "sequence_problem.h"

namespace fastcells {

using rowwise::Norm;

// How a c is normalised on its way to h.
enum class NormOfC { kNone, kGain, kGainAndBias, kCarried, kCarriedWithBias };

struct RowwiseCase : Case {
  Norm norm = Norm::kNone;
  NormOfC norm_of_c = NormOfC::kNone;
  Noise noise{};

  bool normalises_c() const { return norm_of_c != NormOfC::kNone; }
  bool carries_norm() const { return norm_of_c >= NormOfC::kCarried; }
  bool has_norm_c_bias() const {
    return norm_of_c == NormOfC::kGainAndBias || norm_of_c == NormOfC::kCarriedWithBias;
  }
};

template <class Cell>
struct RowwiseProblem : Problem<Cell> {
  template <class Round, class RoundArithmetic>
  RowwiseProblem(const RowwiseCase& c, Round round, RoundArithmetic round_arithmetic)
      : Problem<Cell>(c, round, round_arithmetic), row(c) {
    const std::int64_t gates = Cell::kGates * c.H;
    const auto gain = [&](double x) { return round(1 + x); };
    if (c.norm == Norm::kParts) norm_ih = this->normal(gates, 0.3, gain);
    if (c.norm != Norm::kNone) norm_hh = this->normal(gates, 0.3, gain);
    if (c.normalises_c()) norm_c = this->normal(c.H, 0.3, gain);
    if (c.has_norm_c_bias()) norm_c_bias = this->normal(c.H, 0.5, round);
    unit_weights = this->normal(vectors_of<Cell>() * c.H, 0.5, round);
  }

  // The part that unit u keeps of its old state.
  double kept(NoiseKind kind, std::int64_t t, std::int64_t b, std::int64_t u) const {
    const Noise& noise = row.noise;
    const double rate = kind == NoiseKind::kZoneoutH ? noise.zoneout_h : noise.zoneout_c;
    return noise.is_training != 0 ? is_drawn(kind, rate, t, b, u) : rate;
  }
  // What h is multiplied by in front of its product.
  double factor(std::int64_t b, std::int64_t u) const {
    if (!row.noise.drops()) return 1;
    const double rate = row.noise.dropout;
    return is_drawn(NoiseKind::kDropout, rate, 0, b, u) ? 0 : 1 / (1 - rate);
  }

  RowwiseCase row;
  Values norm_ih, norm_hh, norm_c, norm_c_bias;  // norm_hh: of the gates with Norm::kGates
  Values unit_weights;                           // of a row cell

 private:
  bool is_drawn(NoiseKind kind, double rate, std::int64_t t, std::int64_t b, std::int64_t u) const {
    std::uint32_t word[4];
    Philox::words(std::uint64_t(row.noise.seed), std::uint32_t(t), std::uint32_t(u / 4),
                  std::uint32_t(4 * b) + std::uint32_t(kind), word);
    return word[u % 4] < rate * 4294967296.0;
  }
};

// `saved` is what forward keeps where there is a norm: the products as they come.
struct RowwiseResults : Results {
  Values d_norm_ih, d_norm_hh, d_norm_c, d_norm_c_bias, d_units, d_w_hr;
};

// Each `width` values of x by themselves: less their mean, over the root of their variance + 1e-5.
struct Normalised {
  Normalised() = default;
  Normalised(const Values& x, std::int64_t width) : width(width), values(x) {
    for (auto first = values.begin(); first != values.end(); first += width) {
      double mean = 0, variance = 0;
      for (std::int64_t j = 0; j < width; ++j) mean += first[j] / double(width);
      for (std::int64_t j = 0; j < width; ++j) variance += std::pow(first[j] - mean, 2);
      scales.push_back(1 / std::sqrt(variance / double(width) + 1e-5));
      for (std::int64_t j = 0; j < width; ++j) first[j] = (first[j] - mean) * scales.back();
    }
  }

  Values scaled(const Values& gain, const Values& bias) const {
    Values y = values;
    for (std::size_t j = 0; j < y.size(); ++j) y[j] = y[j] * gain[j] + (bias.empty() ? 0 : bias[j]);
    return y;
  }
  // dx of d y, y = scaled(gain, bias); d_gain += its gradient. By the whole matrix of derivatives:
  // of value i by x_j  scale ((i == j) - 1 / width - value_i value_j / width).
  Values back(const Values& d, const Values& gain, Values& d_gain) const {
    Values dx(d.size());
    for (std::int64_t i = 0; i < std::int64_t(d.size()); ++i) {
      const std::int64_t first = i / width * width;
      d_gain[i] += d[i] * values[i];
      for (std::int64_t j = first; j < first + width; ++j) {
        const double shared = (1 + values[i] * values[j]) / double(width);
        dx[j] += d[i] * gain[i] * scales[i / width] * ((i == j ? 1 : 0) - shared);
      }
    }
    return dx;
  }

  std::int64_t width = 0;
  Values values, scales;
};

template <class Cell>
class RowwiseNaive : Naive<Cell> {
  using Base = Naive<Cell>;
  using Base::r_, Base::part, Base::put, Base::product, Base::through;
  static constexpr int G = Cell::kGates, N = Cell::kStates, K = Cell::kSaved;
  static constexpr int kVectors = vectors_of<Cell>();
  static constexpr bool kHasOutputGate = requires { Cell::kOutputGate; };
  static constexpr bool kTwo = Cell::kTwoProducts;  // the last gate's is with r h

 public:
  template <class Round>
  static RowwiseResults run(const RowwiseProblem<Cell>& p, Round round) {
    RowwiseNaive naive(p);
    for (std::int64_t b = 0; b < p.c.B; ++b) {
      naive.forward(b, round);
      naive.backward(b);
    }
    return {naive.r_,        naive.d_norm_ih_,     naive.d_norm_hh_,
            naive.d_norm_c_, naive.d_norm_c_bias_, naive.d_units_,
            naive.d_w_hr_};
  }

 private:
  explicit RowwiseNaive(const RowwiseProblem<Cell>& p)
      : Base(p), p_(p), H_(p.c.H), P_(p.c.units_of_h()), M_(G * p.c.H), steps_(p.c.T * p.c.B) {
    const std::int64_t kept = p.row.norm == Norm::kParts ? 2 * M_ : M_;
    if (p.row.norm != Norm::kNone) r_.saved.assign(p.c.T * p.c.B * kept, 0);
    for (Values* v : {&d_norm_ih_, &d_norm_hh_}) v->assign(M_, 0);
    for (Values* v : {&d_norm_c_, &d_norm_c_bias_}) v->assign(H_, 0);
    d_units_.assign(kVectors * H_, 0), d_w_hr_.assign(p.c.P * H_, 0);
    if (p.c.P) r_.saved.assign(p.c.T * p.c.B * (K + 1) * H_, 0);
  }

  struct Step {
    Values h, c, operand;  // that entered; of the product
    Values saved, new_c;   // [K*H] of the cell; before zoneout
    Normalised x, g, of_c;
    Values inner;   // c' normalised
    Values second;  // the operand of a second product: r h, or h of the cell
  };

  // The gates of a step as the cell takes them; what is normalised on the way.
  void find_gates(std::int64_t row, Step& s, Values& x, Values& g) {
    const Norm norm = p_.row.norm;
    const Values none, input = part(p_.input, row, p_.c.I);
    x = product(p_.w_ih, norm == Norm::kNone ? p_.b_ih : none, input);
    g = product(p_.w_hh, norm == Norm::kNone ? p_.b_hh : none, s.operand);
    if (norm == Norm::kParts) {
      Values both = x;
      both.insert(both.end(), g.begin(), g.end());
      put(both, r_.saved, row);
      s.x = Normalised(x, M_), s.g = Normalised(g, M_);
      x = s.x.scaled(p_.norm_ih, p_.b_ih), g = s.g.scaled(p_.norm_hh, p_.b_hh);
    } else if (norm == Norm::kGates) {
      for (std::int64_t m = 0; m < M_; ++m) g[m] += x[m];
      put(g, r_.saved, row);
      s.g = Normalised(g, H_), g = s.g.scaled(p_.norm_hh, p_.b_hh);
      x = part(p_.b_ih, 0, M_);
    }
  }

  // The product of the last gate, whose operand is r h.
  template <class Round>
  void find_last_gate(Step& s, const Values& x, Values& g, Round round) const {
    if constexpr (kTwo) {
      for (std::int64_t u = 0; u < H_; ++u) {
        const double of_x[G] = {x[u], x[H_ + u]}, of_g[G] = {g[u], g[H_ + u]};
        s.second.push_back(round(Cell::reset_h(of_x, of_g, s.h[u])));
      }
      const Values all = product(p_.w_hh, p_.b_hh, s.second);
      std::copy(all.begin() + (G - 1) * H_, all.end(), g.begin() + (G - 1) * H_);
    }
  }

  template <class Round>
  void forward(std::int64_t b, Round round) {
    Values h = part(p_.h_0, b, P_), cell = part(p_.c_0, b, H_);
    for (std::int64_t i = 0; i < p_.length(b); ++i) {
      const std::int64_t t = this->step(b, i), row = t * p_.c.B + b;
      if (p_.is_cut(t, b)) h.assign(P_, 0), cell.assign(H_, 0);
      Step& s = steps_[row];
      s.h = s.operand = h, s.c = cell, s.saved.resize(K * H_);
      for (std::int64_t u = 0; u < P_; ++u) s.operand[u] *= p_.factor(b, u);
      Values x_gates, h_gates, new_h(H_), new_c = cell;
      find_gates(row, s, x_gates, h_gates);
      find_last_gate(s, x_gates, h_gates, round);
      for (std::int64_t u = 0; u < H_; ++u) {
        double x[G], g[G], state[N], saved[K];
        for (int k = 0; k < G; ++k) x[k] = x_gates[k * H_ + u], g[k] = h_gates[k * H_ + u];
        state[0] = p_.c.P ? NAN : h[u];
        if constexpr (N == 2) state[1] = cell[u];
        if constexpr (kVectors > 0) {
          double units[kVectors];
          for (int k = 0; k < kVectors; ++k) units[k] = p_.unit_weights[k * H_ + u];
          Cell::forward(x, g, units, state, saved);
        } else {
          Cell::forward(x, g, state, saved);
        }
        new_h[u] = state[0];
        if constexpr (N == 2) new_c[u] = state[1];
        for (int k = 0; k < K; ++k) s.saved[k * H_ + u] = saved[k];
      }
      s.new_c = new_c;
      if (p_.row.normalises_c()) normalise_c(s, new_h, new_c);
      if (p_.c.P) {
        for (double& m : new_h) s.second.push_back(m = round(m));
        s.saved.insert(s.saved.end(), new_h.begin(), new_h.end());
        new_h = product(p_.w_hr, {}, new_h);
      }
      for (std::int64_t u = 0; u < P_; ++u) {
        const double kept_h = p_.kept(NoiseKind::kZoneoutH, t, b, u);
        h[u] = round(kept_h * h[u] + (1 - kept_h) * new_h[u]);
      }
      for (std::int64_t u = 0; u < H_; ++u) {
        const double kept_c = p_.kept(NoiseKind::kZoneoutC, t, b, u);
        cell[u] = kept_c * cell[u] + (1 - kept_c) * new_c[u];
      }
      put(h, r_.output, row), put(cell, r_.cells, row);
      if (p_.row.norm == Norm::kNone) put(s.saved, r_.saved, row);
    }
    put(h, r_.h_n, b), put(cell, r_.c_n, b);
  }
  void normalise_c(Step& s, Values& new_h, Values& new_c) const {
    if constexpr (kHasOutputGate) {
      s.of_c = Normalised(new_c, H_), s.inner = s.of_c.scaled(p_.norm_c, p_.norm_c_bias);
      for (std::int64_t u = 0; u < H_; ++u) {
        new_h[u] = Cell::output(s.saved[Cell::kOutputGate * H_ + u], s.inner[u]);
      }
      if (p_.row.carries_norm()) new_c = s.inner;
    }
  }

  void backward(std::int64_t b) {
    Values dh = part(p_.d_h_n, b, P_), dc = part(p_.d_c_n, b, H_);
    for (std::int64_t i = p_.length(b) - 1; i >= 0; --i) {
      const std::int64_t t = this->step(b, i), row = t * p_.c.B + b;
      const Step& s = steps_[row];
      Values d_new_h(P_), d_new_c(H_), dx(M_), dg(M_), d_operand(P_);
      for (std::int64_t u = 0; u < P_; ++u) {
        const double kept_h = p_.kept(NoiseKind::kZoneoutH, t, b, u);
        const double all_h = dh[u] + p_.d_output[row * P_ + u];
        d_new_h[u] = (1 - kept_h) * all_h, dh[u] = kept_h * all_h;
      }
      if (p_.c.P) {
        Values dm(H_);
        for (std::int64_t k = 0; k < P_; ++k) {
          through(p_.w_hr, k, d_new_h[k], s.second, dm, d_w_hr_);
        }
        d_new_h = dm;
      }
      for (std::int64_t u = 0; u < H_; ++u) {
        const double kept_c = p_.kept(NoiseKind::kZoneoutC, t, b, u);
        const double all_c = dc[u] + p_.d_cells[row * H_ + u];
        d_new_c[u] = (1 - kept_c) * all_c, dc[u] = kept_c * all_c;
      }
      if (p_.row.normalises_c()) {
        output_back(s, d_new_h, d_new_c, dc, dx), dg = dx;
      } else {
        Values d_old_h(H_);
        cell_back(s, d_new_h, d_new_c, d_old_h, dc, dx, dg);
        for (std::int64_t u = 0; u < P_ && !p_.c.P; ++u) dh[u] += d_old_h[u];
      }
      Values of_h = dg;  // of the product with h itself
      if (kTwo) last_gate_back(s, dh, dx, dg, of_h);
      this->add_biases(dx, dg);
      if (p_.row.norm == Norm::kParts) dx = s.x.back(dx, p_.norm_ih, d_norm_ih_);
      if (p_.row.norm != Norm::kNone) dg = s.g.back(dg, p_.norm_hh, d_norm_hh_);
      if (p_.row.norm == Norm::kGates) dx = dg;
      this->products_back(row, dx, kTwo ? of_h : dg, s.operand, d_operand);
      for (std::int64_t u = 0; u < P_; ++u) dh[u] += p_.factor(b, u) * d_operand[u];
      if (p_.is_cut(t, b)) dh.assign(P_, 0), dc.assign(H_, 0);
    }
    put(dh, r_.d_h_0, b), put(dc, r_.d_c_0, b);
  }
  // Through the product of the last gate, and r.
  void last_gate_back(const Step& s, Values& dh, Values& dx, Values& dg, Values& of_h) {
    if constexpr (kTwo) {
      Values d_reset(H_);
      for (std::int64_t m = (G - 1) * H_; m < M_; ++m) {
        through(p_.w_hh, m, dg[m], s.second, d_reset, r_.d_w_hh);
      }
      for (std::int64_t u = 0; u < H_; ++u) {
        double saved[K], d_state[N] = {dh[u]};
        for (int k = 0; k < K; ++k) saved[k] = s.saved[k * H_ + u];
        dx[u] = dg[u] = Cell::backward_reset(saved, s.h[u], d_reset[u], d_state);
        dh[u] = d_state[0];
      }
      of_h = dg;
      std::fill(of_h.begin() + (G - 1) * H_, of_h.end(), 0);
    }
  }
  void cell_back(const Step& s, const Values& d_new_h, const Values& d_new_c, Values& dh,
                 Values& dc, Values& dx, Values& dg) {
    for (std::int64_t u = 0; u < H_; ++u) {
      double saved[K], prev[N], next[N], d_state[N], dx_unit[G], dg_unit[G];
      for (int k = 0; k < K; ++k) saved[k] = s.saved[k * H_ + u];
      prev[0] = p_.c.P ? NAN : s.h[u], next[0] = NAN, d_state[0] = d_new_h[u];
      if constexpr (N == 2) prev[1] = s.c[u], next[1] = s.new_c[u], d_state[1] = d_new_c[u];
      if constexpr (kVectors > 0) {
        double units[kVectors], d_units[kVectors];
        for (int k = 0; k < kVectors; ++k) units[k] = p_.unit_weights[k * H_ + u];
        Cell::backward(saved, units, prev, next, d_state, dx_unit, dg_unit, d_units);
        for (int k = 0; k < kVectors; ++k) d_units_[k * H_ + u] += d_units[k];
      } else {
        Cell::backward(saved, prev, next, d_state, dx_unit, dg_unit);
      }
      for (int k = 0; k < G; ++k) dx[k * H_ + u] = dx_unit[k], dg[k * H_ + u] = dg_unit[k];
      dh[u] += d_state[0];
      if constexpr (N == 2) dc[u] += d_state[1];
    }
  }
  // The same where c' is normalised on its way to h.
  void output_back(const Step& s, const Values& d_new_h, const Values& d_new_c, Values& dc,
                   Values& dx) {
    if constexpr (kHasOutputGate) {
      Values d_inner(H_);
      for (std::int64_t u = 0; u < H_; ++u) {
        const std::int64_t gate = Cell::kOutputGate * H_ + u;
        d_inner[u] = Cell::output_backward(s.saved[gate], s.inner[u], d_new_h[u], dx[gate]);
        if (p_.row.carries_norm()) d_inner[u] += d_new_c[u];
        d_norm_c_bias_[u] += d_inner[u];
      }
      const Values d_of_c = s.of_c.back(d_inner, p_.norm_c, d_norm_c_);
      for (std::int64_t u = 0; u < H_; ++u) {
        double saved[K], dx_unit[G], d_previous;
        for (int k = 0; k < K; ++k) saved[k] = s.saved[k * H_ + u];
        for (int k = 0; k < G; ++k) dx_unit[k] = dx[k * H_ + u];
        const double d_new = d_of_c[u] + (p_.row.carries_norm() ? 0 : d_new_c[u]);
        Cell::c_backward(saved, s.c[u], d_new, d_previous, dx_unit);
        for (int k = 0; k < G; ++k) dx[k * H_ + u] = dx_unit[k];
        dc[u] += d_previous;
      }
    }
  }

  const RowwiseProblem<Cell>& p_;
  const std::int64_t H_, P_, M_;
  std::vector<Step> steps_;  // [T*B]
  Values d_norm_ih_, d_norm_hh_, d_norm_c_, d_norm_c_bias_, d_units_, d_w_hr_;
};

}  // namespace fastcells
