// Additive attention on CUDA, forward and back, under the emulator, against plain loops in double:
// every type of storage, few queries and tiles of them, numbers near and far, masks of every shape,
// lengths, dropout, sizes that miss tiles, no size at all.
#define FASTCELLS_EMULATED
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

#include "attention/cuda/additive/calls.cuh"

namespace fastcells {
namespace {

using Values = std::vector<double>;
using Kind = AttentionMask::Kind;

struct Case {
  std::int64_t B, Tq, Tk, D, Ev;
  Kind mask = Kind::kNone;
  int mask_dims = 7;  // bits of the dimensions that the mask has: 1 batch, 2 queries, 4 keys
  bool has_lengths = false;
  double dropout = 0;
  bool is_far = false;  // numbers that need the sum itself, and infinite ones
  bool has_grad_weights = false, keeps_weights = true;
};

template <class T>
double rounded(double x) {
  return double(float(T(float(x))));
}

// ---- the problem and what is expected, in double ----

struct Problem {
  Case c;
  Values query, key, value, units, bias, grad_output, grad_weights;  // bias: 0 or -inf for bool
  std::vector<std::int64_t> lengths;
  std::int64_t seed = 0x123456789abcdef;

  std::int64_t mask_at(std::int64_t b, std::int64_t i, std::int64_t j) const {
    const std::int64_t q = c.mask_dims & 2 ? c.Tq : 1, k = c.mask_dims & 4 ? c.Tk : 1;
    return ((c.mask_dims & 1 ? b : 0) * q + (c.mask_dims & 2 ? i : 0)) * k +
           (c.mask_dims & 4 ? j : 0);
  }
  std::int64_t mask_count() const {
    return (c.mask_dims & 1 ? c.B : 1) * (c.mask_dims & 2 ? c.Tq : 1) *
           (c.mask_dims & 4 ? c.Tk : 1);
  }
  std::int64_t length(std::int64_t b) const { return c.has_lengths ? lengths[b] : c.Tk; }
  double keep(std::int64_t b, std::int64_t i, std::int64_t j) const {
    if (c.dropout == 0) return 1;
    std::uint32_t word[4];
    Philox::words(std::uint64_t(seed), std::uint32_t(j / 4), std::uint32_t(i), std::uint32_t(b),
                  word);
    return word[j % 4] >= dropout_threshold(c.dropout) ? 1 / (1 - c.dropout) : 0;
  }
};

template <class T>
Problem make_problem(const Case& c) {
  std::mt19937 random(unsigned(c.Tq * 31 + c.Tk * 7 + c.D));
  const auto draw = [&](std::int64_t count, double size) {
    std::uniform_real_distribution<double> uniform(-size, size);
    Values x(std::size_t(count), 0.0);
    for (double& v : x) v = rounded<T>(uniform(random));
    return x;
  };
  Problem p{c,
            draw(c.B * c.Tq * c.D, 1.5),
            draw(c.B * c.Tk * c.D, 1.5),
            draw(c.B * c.Tk * c.Ev, 1),
            {},
            {},
            draw(c.B * c.Tq * c.Ev, 1),
            draw(c.B * c.Tq * c.Tk, 1),
            {}};
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (std::int64_t d = 0; d < c.D; ++d) p.units.push_back(double(float(uniform(random))));
  if (c.is_far) {
    // Every third unit: a query far out, which the keys bring back; some numbers are infinite.
    for (std::int64_t n = 0; n < c.B * c.Tq * c.D; n += 3) p.query[n] += n / c.D % 2 ? 40 : -24;
    for (std::int64_t n = 0; n < c.B * c.Tk * c.D; n += 3) p.key[n] += n / c.D % 2 ? 24 : -40;
    for (Values* x : {&p.query, &p.key}) {
      for (double& v : *x) v = rounded<T>(v);
    }
    p.query[1] = INFINITY, p.key[0] = -INFINITY;
  }
  const std::int64_t mask_row = c.mask_dims & 4 ? c.Tk : 1;
  for (std::int64_t n = 0; n < p.mask_count(); ++n) {
    const bool hides = random() % 4 == 0 || (c.mask_dims & 2 && n < mask_row);  // all of a query
    const double added = c.mask == Kind::kBool ? 0 : rounded<T>(uniform(random));
    p.bias.push_back(hides ? -INFINITY : added);
  }
  for (std::int64_t b = 0; b < c.B; ++b) {
    p.lengths.push_back(b == 1 ? 0 : c.Tk - c.Tk / 3);
    for (std::int64_t j = p.length(b); j < c.Tk; ++j) {  // what does not exist
      for (std::int64_t d = 0; d < c.D; ++d) p.key[(b * c.Tk + j) * c.D + d] = NAN;
      for (std::int64_t e = 0; e < c.Ev; ++e) p.value[(b * c.Tk + j) * c.Ev + e] = NAN;
    }
  }
  return p;
}

struct Results {
  Values output, logsumexp, weights, d_query, d_key, d_value, d_units, d_mask;
  explicit Results(const Case& c, std::int64_t mask_count)
      : output(c.B * c.Tq * c.Ev),
        logsumexp(c.B * c.Tq),
        weights(c.B * c.Tq * c.Tk),
        d_query(c.B * c.Tq * c.D),
        d_key(c.B * c.Tk * c.D),
        d_value(c.B * c.Tk * c.Ev),
        d_units(c.D),
        d_mask(mask_count) {}
};

// One row: softmax, output and all that its gradient adds to.
void add_row(const Problem& p, std::int64_t b, std::int64_t i, Results& r) {
  const Case& c = p.c;
  const std::int64_t row = b * c.Tq + i, length = p.length(b);
  const auto tanh_of = [&](std::int64_t j, std::int64_t d) {
    return std::tanh(p.query[row * c.D + d] + p.key[(b * c.Tk + j) * c.D + d]);
  };
  Values w(length), dw(length);
  double sum = 0, most = -1e300;
  for (std::int64_t j = 0; j < length; ++j) {
    double& score = w[j] = c.mask == Kind::kNone ? 0 : p.bias[p.mask_at(b, i, j)];
    for (std::int64_t d = 0; d < c.D; ++d) score += p.units[d] * tanh_of(j, d);
    most = std::max(most, score);
  }
  for (double& x : w) sum += x = std::exp(x - most);
  r.logsumexp[row] = most + std::log(sum);
  double delta = 0;
  for (std::int64_t j = 0; j < length; ++j) {
    w[j] = sum > 0 || sum != sum ? w[j] / sum : 0;
    const double keep = p.keep(b, i, j);
    r.weights[row * c.Tk + j] = w[j] * keep;
    dw[j] = c.has_grad_weights ? p.grad_weights[row * c.Tk + j] : 0;
    for (std::int64_t e = 0; e < c.Ev; ++e) {
      const double v = p.value[(b * c.Tk + j) * c.Ev + e], d_output = p.grad_output[row * c.Ev + e];
      r.output[row * c.Ev + e] += w[j] * keep * v;
      dw[j] += d_output * v;
      r.d_value[(b * c.Tk + j) * c.Ev + e] += w[j] * keep * d_output;
    }
    dw[j] *= keep;
    delta += w[j] * dw[j];
  }
  for (std::int64_t j = 0; j < length; ++j) {
    const double ds = w[j] * (dw[j] - delta);
    if (c.mask == Kind::kAdded) r.d_mask[p.mask_at(b, i, j)] += ds;
    for (std::int64_t d = 0; d < c.D; ++d) {
      const double t = tanh_of(j, d), slope = ds * p.units[d] * (1 - t * t);
      r.d_query[row * c.D + d] += slope;
      r.d_key[(b * c.Tk + j) * c.D + d] += slope;
      r.d_units[d] += ds * t;
    }
  }
}
Results expected_of(const Problem& p) {
  Results r(p.c, p.mask_count());
  for (std::int64_t b = 0; b < p.c.B; ++b) {
    for (std::int64_t i = 0; i < p.c.Tq; ++i) add_row(p, b, i, r);
  }
  return r;
}

// ---- the kernels ----

// Rows with something between them, as a slice of a wider tensor has.
template <class T>
struct Slice {
  static constexpr std::int64_t kGap = 3;
  std::vector<T> storage;
  HeadMatrix matrix;
  Slice(const Values& x, std::int64_t batches, std::int64_t rows, std::int64_t columns)
      : storage(std::size_t(batches * rows * (columns + kGap)) + 1, T(float(NAN))) {
    for (std::int64_t n = 0; n < batches * rows * columns; ++n) {
      storage[n / columns * (columns + kGap) + n % columns] = T(float(x[n]));
    }
    matrix = {storage.data(), rows * (columns + kGap), 0, columns + kGap};
  }
};
template <class T>
struct Buffer {  // not yet written: NaN
  std::vector<T> data;
  explicit Buffer(std::int64_t count) : data(std::size_t(count) + 1, T(float(NAN))) {}
  operator T*() { return data.data(); }
};

template <class T>
struct Call {
  explicit Call(const Problem& problem)
      : p(problem),
        c(p.c),
        query(p.query, c.B, c.Tq, c.D),
        key(p.key, c.B, c.Tk, c.D),
        value(p.value, c.B, c.Tk, c.Ev),
        grad_output(p.grad_output, c.B, c.Tq, c.Ev),
        units(p.units.begin(), p.units.end()),
        output(c.B * c.Tq * c.Ev),
        weights(c.B * c.Tq * c.Tk),
        d_query(c.B * c.Tq * c.D),
        d_key(c.B * c.Tk * c.D),
        d_value(c.B * c.Tk * c.Ev),
        logsumexp(c.B * c.Tq),
        signed_weights(c.B * c.Tq * c.Tk),
        d_scores(c.B * c.Tq * c.Tk),
        d_units(cuda::additive_parts(c.B, c.Tk) * c.D),
        d_mask(p.mask_count()) {
    for (const double x : p.grad_weights) grad_weights.push_back(T(float(x)));
    for (const double x : p.bias) {
      mask_bool.push_back(x == 0);
      mask_added.push_back(T(float(x)));
    }
  }

  void fill(AttentionArgs& a) const {
    a.B = c.B, a.N = a.Nk = 1, a.Tq = c.Tq, a.Tk = c.Tk, a.E = c.D, a.Ev = c.Ev;
    a.query = query.matrix, a.key = key.matrix, a.value = value.matrix;
    const bool is_bool = c.mask == Kind::kBool;
    a.mask.kind = c.mask;
    a.mask.data = is_bool ? static_cast<const void*>(mask_bool.data()) : mask_added.data();
    a.mask.key = c.mask_dims & 4 ? 1 : 0;
    const std::int64_t keys = c.mask_dims & 4 ? c.Tk : 1;
    a.mask.query = c.mask_dims & 2 ? keys : 0;
    a.mask.batch = c.mask_dims & 1 ? (c.mask_dims & 2 ? c.Tq : 1) * keys : 0;
    a.key_lengths = c.has_lengths ? p.lengths.data() : nullptr;
    a.left = a.right = -1;
    a.dropout = {&p.seed, dropout_threshold(c.dropout), 1 / (1 - c.dropout), c.dropout > 0};
    a.units = units.data();
  }

  void run(unsigned seed) {
    const auto run = [&](std::int64_t blocks, int shared, auto kernel, const auto& args) {
      if (blocks == 0) return;
      simt::Options options;
      options.seed = ++seed;
      simt::launch({unsigned(blocks)}, {additive::kThreads}, std::size_t(shared), options, kernel,
                   args);
    };
    cuda::AdditiveForwardArgs f{};
    fill(f);
    f.output = output, f.logsumexp = logsumexp, f.weights = weights;
    f.signed_weights = signed_weights;
    additive::run_forward<T>(f, run);
    if (!c.keeps_weights) signed_weights = Buffer<float>(c.B * c.Tq * c.Tk);
    const auto kept = signed_weights.data;

    cuda::AdditiveBackwardArgs a{};
    fill(a);
    a.grad_output = grad_output.matrix;
    a.grad_weights = c.has_grad_weights ? grad_weights.data() : nullptr;
    a.d_query = d_query, a.d_key = d_key, a.d_value = d_value;
    a.d_mask = c.mask == Kind::kAdded ? static_cast<float*>(d_mask) : nullptr;
    a.signed_weights = signed_weights, a.has_weights = c.keeps_weights;
    a.d_scores = d_scores, a.d_units = d_units;
    additive::run_backward<T>(a, run);
    if (c.keeps_weights && std::memcmp(kept.data(), signed_weights, kept.size() * 4) != 0) {
      throw simt::Fault("the way back has changed what the forward pass saved");
    }
  }

  const Problem& p;
  const Case& c;
  Slice<T> query, key, value, grad_output;
  std::vector<float> units;
  std::vector<unsigned char> mask_bool;
  std::vector<T> mask_added, grad_weights;
  Buffer<T> output, weights, d_query, d_key, d_value;
  Buffer<float> logsumexp, signed_weights, d_scores, d_units, d_mask;
};

// ---- comparing ----

// Largest difference, over 1 + the expected size; infinite where one of both is no number, or
// infinite.
template <class T>
double worst(const Buffer<T>& got, const Values& expected) {
  double error = 0;
  for (std::size_t n = 0; n < expected.size(); ++n) {
    const double x = double(float(got.data[n])), y = expected[n];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double difference = std::fabs(x - y) / (1 + std::fabs(y));
    if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
  }
  return error;
}
template <class T>
bool same_bits(const Buffer<T>& a, const Buffer<T>& b) {
  return std::memcmp(a.data.data(), b.data.data(), a.data.size() * sizeof(T)) == 0;
}

template <class T>
bool check(const Case& c) {
  const Problem p = make_problem<T>(c);
  const Results expected = expected_of(p);
  Call<T> call(p), again(p);
  call.run(1), again.run(100);

  Buffer<float> d_units(c.D);
  for (std::int64_t d = 0; d < c.D; ++d) {
    double sum = 0;
    for (std::int64_t n = 0; n < cuda::additive_parts(c.B, c.Tk); ++n) {
      sum += call.d_units.data[n * c.D + d];
    }
    d_units.data[d] = float(sum);
  }
  // float32: a score is off by some 2^-24 of its terms' sizes for each of its D / 2 additions, and
  // a gradient by as much for each row it sums up; below 1e-5 at these sizes. What is stored in 16
  // bits is rounded once, by half a unit of its 11 or 8 bits.
  const double float_error = 1e-5;
  const double half_unit = sizeof(T) == 4 ? 0 : std::is_same_v<T, __half> ? 0x1p-11 : 0x1p-8;
  const double error = float_error + half_unit;
  const double stored =
      std::max({worst(call.output, expected.output), worst(call.weights, expected.weights),
                worst(call.d_query, expected.d_query), worst(call.d_key, expected.d_key),
                worst(call.d_value, expected.d_value)});
  double floats =
      std::max(worst(call.logsumexp, expected.logsumexp), worst(d_units, expected.d_units));
  if (c.mask == Kind::kAdded) floats = std::max(floats, worst(call.d_mask, expected.d_mask));
  const bool is_same =
      same_bits(call.output, again.output) && same_bits(call.weights, again.weights) &&
      same_bits(call.d_query, again.d_query) && same_bits(call.d_key, again.d_key) &&
      same_bits(call.d_value, again.d_value) && same_bits(call.logsumexp, again.logsumexp) &&
      same_bits(call.d_units, again.d_units) && same_bits(call.d_mask, again.d_mask);
  const bool is_ok = stored <= error && floats <= float_error && is_same;
  constexpr const char* kMasks[] = {"no mask", "bool", "added"};
  std::printf("%s B%d Tq%d Tk%d D%d Ev%d, %s %d%s%s%s: stored %.1e, float32 %.1e%s%s\n",
              sizeof(T) == 4              ? "float32 "
              : std::is_same_v<T, __half> ? "float16 "
                                          : "bfloat16",
              int(c.B), int(c.Tq), int(c.Tk), int(c.D), int(c.Ev), kMasks[int(c.mask)], c.mask_dims,
              c.has_lengths ? " lengths" : "", c.dropout > 0 ? " dropout" : "",
              c.is_far ? " far" : "", stored, floats, is_same ? "" : "  NOT REPEATED",
              is_ok ? "" : "  FAILED");
  return is_ok;
}

bool check_output(const char* what, const Problem& p) {
  Call<float> call(p);
  call.run(3);
  const bool is_ok = worst(call.output, expected_of(p).output) < 1e-5;
  std::printf("float32  Tq%d, %s: %s\n", int(p.c.Tq), what, is_ok ? "ok" : "FAILED");
  return is_ok;
}
// A query that is no number: its row is none either, the others are untouched. Units whose products
// with exponentials would be infinite.
bool check_extremes(std::int64_t Tq) {
  const Case c{1, Tq, 2, 2, 3};
  Problem nan = make_problem<float>(c), huge = nan;
  nan.query[c.D + 1] = NAN;
  for (double& x : huge.query) x = 15;
  huge.key = {15, 15, -15, 1}, huge.units = {0x1p45, 1};
  return check_output("a NaN", nan) && check_output("huge units", huge);
}

template <class T>
bool check_type() {
  bool ok = true;
  const auto with = [](Case c, Kind mask, int dims, bool lengths, double dropout, bool far) {
    c.mask = mask, c.mask_dims = dims, c.has_lengths = lengths, c.dropout = dropout, c.is_far = far;
    return c;
  };
  Case tiles{2, 66, 67, 35, 37}, step{3, 1, 70, 40, 70};
  tiles.has_grad_weights = true, step.keeps_weights = false;
  ok &= check<T>(with(tiles, Kind::kBool, 7, true, 0.3, false));
  ok &= check<T>(with(step, Kind::kAdded, 5, true, 0.25, false));
  if constexpr (sizeof(T) != 4) return ok;
  Case wide{1, 17, 65, 33, 8}, few{2, 3, 33, 70, 5};
  wide.keeps_weights = false, few.has_grad_weights = true;
  ok &= check<T>(with(wide, Kind::kAdded, 4, false, 0, true));
  ok &= check<T>(with(few, Kind::kNone, 7, false, 0, true));
  ok &= check<T>(with({2, 17, 9, 3, 1}, Kind::kNone, 7, true, 1, false));  // all is dropped
  for (int dims = 0; dims < 8; ++dims) {
    ok &= check<T>(with({2, 5, 6, 3, 2}, Kind::kAdded, dims, dims % 2 == 0, 0, false));
    ok &= check<T>(
        with({2, 2, 3, 2, 1}, dims % 2 ? Kind::kAdded : Kind::kBool, dims, false, 0, false));
  }
  for (const Case& c : {Case{0, 2, 3, 4, 5}, Case{2, 0, 3, 4, 5}, Case{2, 2, 0, 4, 5},
                        Case{1, 20, 0, 4, 5}, Case{2, 2, 3, 4, 0}, Case{1, 1, 1, 1, 1}}) {
    ok &= check<T>(with(c, Kind::kAdded, 7, false, 0, false));
  }
  ok &= check_extremes(3);
  return check_extremes(16) && ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  const bool is_float_ok = fastcells::check_type<float>();
  const bool is_half_ok = fastcells::check_type<__half>();
  return fastcells::check_type<__nv_bfloat16>() && is_half_ok && is_float_ok ? 0 : 1;
}
