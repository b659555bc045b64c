// A layer of the CUDA kernels that look at whole rows, under the emulator or on a card: the
// engine's loop (recurrent/rowwise/cuda/engine.cpp) with products by plain loops, beside the
// results of rowwise_problem.h. What is to be written begins as NaN.
#pragma once
#include <algorithm>
#include <cstring>

#include "machine.h"
#include "recurrent/cuda/step.cuh"
#include "recurrent/rowwise/cuda/backward.cuh"
#include "recurrent/rowwise/cuda/forward.cuh"
#include "rowwise_problem.h"

namespace fastcells {

template <class X>
X narrow(double x) {
  if constexpr (sizeof(X) == 8) {
    return x;
  } else {
    return X(float(x));
  }
}
template <class X>
double rounded(double x) {
  return double(narrow<X>(x));
}

// Rows of a matrix, `width` values of each `stride`; the others are NaN before and after.
template <class X>
struct Matrix {
  std::vector<X> values;
  std::int64_t width, stride;

  Matrix(std::int64_t rows, std::int64_t width, std::int64_t padding = 0)
      : values(std::size_t(rows * (width + padding)), X(NAN)),
        width(width),
        stride(width + padding) {}

  // Largest difference, over 1 + the number's size. NaN in `wanted`: whatever is there.
  double distance(const Values& wanted) const {
    double worst = 0;
    for (std::int64_t i = 0; i < std::int64_t(values.size()); ++i) {
      const double found = double(values[i]);
      if (i % stride >= width) {
        if (!std::isnan(found)) return INFINITY;
        continue;
      }
      const double want = wanted[i / stride * width + i % stride];
      if (std::isnan(want)) continue;
      const double error = std::fabs(found - want) / (1 + std::fabs(want));
      worst = error <= worst ? worst : std::isnan(error) ? INFINITY : error;
    }
    return worst;
  }
};

template <class Cell, class Types>
class RowwiseRun {
  using A = typename Types::A;
  using S = typename Types::T;
  static constexpr int G = Cell::kGates, K = Cell::kSaved, V = vectors_of<Cell>();
  static constexpr bool kHasC = Cell::kStates == 2;
  static constexpr std::int64_t kPadding = 3;

 public:
  RowwiseRun(const RowwiseProblem<Cell>& p, unsigned seed)
      : p_(p), c_(p.row), options_{seed}, M_(G * c_.H), rows_(c_.T * c_.B) {}

  // The largest error of all results.
  double worst(const RowwiseResults& want) {
    forward();
    backward();
    double worst = std::max({output_.distance(want.output), carry_h_.distance(want.h_n),
                             d_h_0_.distance(want.d_h_0), products_distance(want)});
    worst =
        std::max(worst, is_normalised() ? raw_.distance(want.saved) : saved_.distance(want.saved));
    if (kHasC) {
      worst = std::max({worst, cells_.distance(want.cells), carry_c_.distance(want.c_n),
                        d_c_0_.distance(want.d_c_0)});
    }
    if (c_.norm == Norm::kParts) worst = std::max(worst, sum_distance(d_norm_ih_, want.d_norm_ih));
    if (is_normalised()) worst = std::max(worst, sum_distance(d_norm_hh_, want.d_norm_hh));
    if (c_.normalises_c()) {
      Values both = want.d_norm_c;
      both.insert(both.end(), want.d_norm_c_bias.begin(), want.d_norm_c_bias.end());
      worst = std::max(worst, sum_distance(d_norm_c_, both));
    }
    if (V > 0) worst = std::max(worst, sum_distance(d_units_, want.d_units));
    worst = std::max(worst, sum_distance(d_bias_ih_, want.d_b_ih));
    return std::max(worst, sum_distance(d_bias_hh_, want.d_b_hh));
  }
  bool has_same_bits(const RowwiseRun& other) const {
    return std::memcmp(dg().values.data(), other.dg().values.data(),
                       dg().values.size() * sizeof(S)) == 0;
  }

 private:
  bool is_normalised() const { return c_.norm != Norm::kNone; }
  // Whether both products have the same gradients.
  bool shares() const { return Cell::kAdditive && c_.norm != Norm::kParts; }
  const Matrix<S>& dg() const { return shares() ? dx_ : dg_; }

  template <class X>
  static std::vector<X> stored(const Values& from) {
    std::vector<X> to;
    for (const double x : from) to.push_back(narrow<X>(x));
    return to;
  }
  template <class X>
  static X* address(std::vector<X>& values) {
    return values.empty() ? nullptr : values.data();
  }

  // ---- arguments ----

  void fill(RowStepArgs& a) {
    a.rows = {p_.lengths.empty() ? nullptr : lengths_.data(), nullptr, c_.T, c_.B, c_.reverse};
    if (!p_.resets.empty()) a.rows.resets = reinterpret_cast<const bool*>(resets_.data());
    a.H = c_.H, a.C = kHasC ? c_.H : 0;
    a.h_0 = address(h_0_), a.c_0 = kHasC ? address(c_0_) : nullptr;
    a.bias_ih = address(b_ih_), a.bias_hh = address(b_hh_);
    a.norm_ih = address(norm_ih_);
    (c_.norm == Norm::kGates ? a.norm_gates : a.norm_hh) = address(norm_hh_);
    a.norm_c = address(norm_c_), a.norm_c_bias = address(norm_c_bias_);
    a.unit_weights = address(units_);
    a.carries_norm = c_.carries_norm(), a.noise = c_.noise;
    a.output_stride = output_.stride, a.cells_stride = cells_.stride;
    a.saved_stride = is_normalised() ? raw_.stride : saved_.stride;
  }
  void* saved() {
    return is_normalised() ? static_cast<void*>(raw_.values.data()) : saved_.values.data();
  }

  template <class Step>
  void launch_units(const Step& step) const {
    const auto blocks = unsigned((c_.B * c_.H + kStepThreads - 1) / kStepThreads);
    simt::launch({blocks}, {unsigned(kStepThreads)}, 0, options_, step_kernel<Step>, step, c_.B,
                 c_.H);
  }
  template <class Kernel, class Args>
  void launch_rows(Kernel kernel, const Args& args) const {
    const Grid grid = grid_of_rows(c_.B, c_.H);
    simt::launch({grid.blocks}, {grid.threads}, grid.shared_bytes, options_, kernel, args);
  }

  // ---- the engine's loops ----

  // W x of each row that is there, `from` of `width` values a row.
  template <class X, class To>
  static void multiply(const Values& weight, const X* from, std::int64_t rows, std::int64_t width,
                       To* to) {
    const auto columns = std::int64_t(weight.size()) / width;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t m = 0; m < columns; ++m) {
        double sum = 0;
        for (std::int64_t k = 0; k < width; ++k) {
          sum += weight[m * width + k] * double(from[r * width + k]);
        }
        to[r * columns + m] = To(sum);
      }
    }
  }
  void forward() {
    RowForwardArgs a{};
    fill(a);
    std::vector<A> x_gates(rows_ * M_), h_gates(c_.B * M_), new_c(c_.B * 2 * c_.H, A(NAN));
    Values input = p_.input;
    for (double& x : input) x = std::isnan(x) ? 0 : x;
    multiply(p_.w_ih, input.data(), rows_, c_.I, x_gates.data());
    a.x_gates = x_gates.data(), a.h_gates = h_gates.data();
    a.carry_h = carry_h_.values.data(), a.new_c = c_.normalises_c() ? new_c.data() : nullptr;
    if (c_.noise.drops()) a.dropped_h = dropped_h_.values.data();
    a.output = output_.values.data(), a.saved = saved();
    if (kHasC) a.carry_c = carry_c_.values.data(), a.cells = cells_.values.data();
    launch_units(RowStart<Types>{a});
    for (std::int64_t i = 0; i < c_.T; ++i) {
      a.t = c_.reverse ? c_.T - 1 - i : i;
      const Matrix<S>& operand = c_.noise.drops() ? dropped_h_ : carry_h_;
      multiply(p_.w_hh, operand.values.data(), c_.B, c_.H, h_gates.data());
      launch_rows(row_forward_kernel<Cell, Types>, a);
    }
  }
  void backward() {
    RowBackwardArgs a{};
    fill(a);
    std::vector<A> gate_rows(c_.B * 2 * M_, A(NAN)), c_rows(c_.B * 3 * c_.H, A(NAN));
    std::vector<A> carry_dh = stored<A>(p_.d_h_n), carry_dc = stored<A>(p_.d_c_n);
    std::vector<A> product(c_.B * c_.H, A(NAN));
    a.output = output_.values.data(), a.saved = saved(), a.d_output = d_output_.values.data();
    if (kHasC) a.cells = cells_.values.data(), a.d_cells = d_cells_.values.data();
    a.carry_dh = carry_dh.data(), a.carry_dc = kHasC ? carry_dc.data() : nullptr;
    a.gate_rows = gate_rows.data(), a.c_rows = c_.normalises_c() ? c_rows.data() : nullptr;
    a.dx_gates = dx_.values.data(), a.dg_gates = shares() ? nullptr : dg_.values.data();
    a.h_previous = h_previous_.values.data();
    a.d_bias_ih = d_bias_ih_.data(), a.d_bias_hh = d_bias_hh_.data();
    if (c_.norm == Norm::kParts) a.d_norm_ih = d_norm_ih_.data();
    if (is_normalised()) a.d_norm_hh = d_norm_hh_.data();
    if (c_.normalises_c()) a.d_norm_c = d_norm_c_.data();
    a.d_units = V > 0 ? d_units_.data() : nullptr;
    Values transposed(p_.w_hh.size());
    for (std::int64_t m = 0; m < M_; ++m) {
      for (std::int64_t u = 0; u < c_.H; ++u) transposed[u * M_ + m] = p_.w_hh[m * c_.H + u];
    }
    for (std::int64_t i = 0; i < c_.T; ++i) {
      a.t = c_.reverse ? i : c_.T - 1 - i;
      launch_rows(row_backward_kernel<Cell, Types>, a);
      multiply(transposed, dg().values.data() + a.t * c_.B * M_, c_.B, M_, product.data());
      a.product_dh = product.data();
    }
    a.d_h_0 = d_h_0_.values.data(), a.d_c_0 = kHasC ? d_c_0_.values.data() : nullptr;
    launch_units(RowFinish<Types>{a});
  }

  // ---- comparison ----

  // Of what each row has added up.
  double sum_distance(const std::vector<A>& of_rows, const Values& wanted) const {
    const auto width = std::int64_t(wanted.size());
    Matrix<double> sums(1, width);
    for (std::int64_t j = 0; j < width; ++j) {
      sums.values[j] = 0;
      for (std::int64_t b = 0; b < c_.B; ++b) sums.values[j] += double(of_rows[b * width + j]);
    }
    return sums.distance(wanted);
  }
  // Of what the large products over all steps make of the operands.
  double products_distance(const RowwiseResults& want) const {
    Matrix<double> d_input(rows_, c_.I), d_w_ih(M_, c_.I), d_w_hh(M_, c_.H);
    for (Matrix<double>* m : {&d_input, &d_w_ih, &d_w_hh}) {
      std::fill(m->values.begin(), m->values.end(), 0.0);
    }
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t m = 0; m < M_; ++m) {
        const double x = double(dx_.values[row * M_ + m]), g = double(dg().values[row * M_ + m]);
        for (std::int64_t k = 0; k < c_.I; ++k) {
          const double input = p_.exists(row) ? p_.input[row * c_.I + k] : 0;
          d_input.values[row * c_.I + k] += x * p_.w_ih[m * c_.I + k];
          d_w_ih.values[m * c_.I + k] += x * input;
        }
        for (std::int64_t u = 0; u < c_.H; ++u) {
          d_w_hh.values[m * c_.H + u] += g * double(h_previous_.values[row * c_.H + u]);
        }
      }
    }
    return std::max({d_input.distance(want.d_input), d_w_ih.distance(want.d_w_ih),
                     d_w_hh.distance(want.d_w_hh)});
  }

  // In the memory that a card is given copies of.
  template <class X>
  Matrix<X> given(const Values& values, std::int64_t width) const {
    Matrix<X> to(rows_, width, kPadding);
    for (std::int64_t i = 0; i < rows_ * width; ++i) {
      to.values[i / width * to.stride + i % width] = narrow<X>(values[i]);
    }
    return to;
  }

  const RowwiseProblem<Cell>& p_;
  const RowwiseCase& c_;
  const simt::Options options_;
  const std::int64_t M_, rows_;
  std::vector<std::int64_t> lengths_ = p_.lengths;
  std::vector<unsigned char> resets_ = p_.resets;
  std::vector<S> h_0_ = stored<S>(p_.h_0), c_0_ = stored<S>(p_.c_0);
  std::vector<S> b_ih_ = stored<S>(p_.b_ih), b_hh_ = stored<S>(p_.b_hh);
  std::vector<S> norm_ih_ = stored<S>(p_.norm_ih), norm_hh_ = stored<S>(p_.norm_hh);
  std::vector<S> norm_c_ = stored<S>(p_.norm_c), norm_c_bias_ = stored<S>(p_.norm_c_bias);
  std::vector<S> units_ = stored<S>(p_.unit_weights);
  Matrix<S> output_{rows_, c_.H, kPadding}, carry_h_{c_.B, c_.H}, dropped_h_{c_.B, c_.H};
  Matrix<A> cells_{rows_, c_.H, kPadding}, carry_c_{c_.B, c_.H};
  Matrix<S> saved_{rows_, K * c_.H};
  Matrix<A> raw_{rows_, c_.norm == Norm::kParts ? 2 * M_ : M_};
  Matrix<S> d_output_ = given<S>(p_.d_output, c_.H);
  Matrix<A> d_cells_ = given<A>(p_.d_cells, c_.H);
  Matrix<S> dx_{rows_, M_}, dg_{rows_, M_}, h_previous_{rows_, c_.H};
  Matrix<A> d_h_0_{c_.B, c_.H}, d_c_0_{c_.B, c_.H};
  std::vector<A> d_bias_ih_ = sums(M_), d_bias_hh_ = sums(M_), d_norm_ih_ = sums(M_);
  std::vector<A> d_norm_hh_ = sums(M_), d_norm_c_ = sums(2 * c_.H), d_units_ = sums(V * c_.H);

  std::vector<A> sums(std::int64_t width) const { return std::vector<A>(c_.B * width, A(0)); }
};

}  // namespace fastcells
