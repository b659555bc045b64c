// Additive attention on CUDA, forward and back, under the emulator or on a card, against plain
// loops in double: every type of storage, few queries and tiles of them, numbers near and far,
// masks of every shape, lengths, dropout, sizes that miss tiles, no size at all.
#include "cuda_additive_problem.h"

#include "attention/cuda/additive/calls.cuh"

namespace fastcells {
namespace {

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
        logsumexp(c.B * c.Tq * 2),
        signed_weights(c.B * c.Tq * c.Tk),
        d_scores(c.B * c.Tq * c.Tk),
        d_units(cuda::additive_parts(c.B, c.Tk) * c.D),
        d_mask(p.mask_count()) {
    for (const double x : p.grad_weights) grad_weights.push_back(T(float(x)));
    for (const double x : p.bias) {
      mask_bool.push_back(x == 0);
      mask_added.push_back(T(float(x))), mask_wide.push_back(float(x));
    }
    for (const std::int64_t length : p.lengths) {
      const bool is_wild = c.has_wild_lengths;
      lengths.push_back(!is_wild ? length : length == 0 ? -1 : INT64_MAX);
    }
    if (c.has_wild_lengths && !lengths.empty()) lengths[0] = c.Tk + 3;
  }

  void fill(AttentionArgs& a) const {
    a.B = c.B, a.N = a.Nk = 1, a.Tq = c.Tq, a.Tk = c.Tk, a.E = c.D, a.Ev = c.Ev;
    a.query = query.matrix, a.key = key.matrix, a.value = value.matrix;
    const bool is_bool = c.mask == Kind::kBool;
    a.mask.kind = c.mask;
    a.mask.data = is_bool ? static_cast<const void*>(mask_bool.data()) : mask_added.data();
    if (c.mask == Kind::kAddedWide) a.mask.data = mask_wide.data();
    a.seen = c.mask != Kind::kNone ? reinterpret_cast<const bool*>(seen.data()) : nullptr;
    a.mask.key = c.mask_dims & 4 ? 1 : 0;
    const std::int64_t keys = c.mask_dims & 4 ? c.Tk : 1;
    a.mask.query = c.mask_dims & 2 ? keys : 0;
    a.mask.batch = c.mask_dims & 1 ? (c.mask_dims & 2 ? c.Tq : 1) * keys : 0;
    a.key_lengths = c.has_lengths ? lengths.data() : nullptr;
    a.left = a.right = -1;
    a.dropout = {p.seed.data(), dropout_threshold(c.dropout), 1 / (1 - c.dropout), c.dropout > 0};
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
    a.d_mask = c.is_added() ? static_cast<float*>(d_mask) : nullptr;
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
  std::vector<unsigned char> mask_bool, seen = p.seen_keys();
  std::vector<T> mask_added, grad_weights;
  std::vector<float> mask_wide;
  std::vector<std::int64_t> lengths;
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
bool check_call(const Case& c) {
  Problem p = make_problem<T>(c);
  const Results expected = expected_of(p);
  p.poison();
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
  if (c.is_added()) floats = std::max(floats, worst(call.d_mask, expected.d_mask));
  const bool is_same =
      same_bits(call.output, again.output) && same_bits(call.weights, again.weights) &&
      same_bits(call.d_query, again.d_query) && same_bits(call.d_key, again.d_key) &&
      same_bits(call.d_value, again.d_value) && same_bits(call.logsumexp, again.logsumexp) &&
      same_bits(call.d_units, again.d_units) && same_bits(call.d_mask, again.d_mask);
  return end_case(std::max(stored / error, floats / float_error), 1, is_same);
}

template <class T>
bool check(const Case& c) {
  constexpr const char* kMasks[] = {"no mask", "bool", "added", "added wide"};
  char name[200];
  std::snprintf(name, sizeof name, "%s B%d Tq%d Tk%d D%d Ev%d, %s %d%s%s%s",
                sizeof(T) == 4              ? "float32 "
                : std::is_same_v<T, __half> ? "float16 "
                                            : "bfloat16",
                int(c.B), int(c.Tq), int(c.Tk), int(c.D), int(c.Ev), kMasks[int(c.mask)],
                c.mask_dims, c.has_lengths ? " lengths" : "", c.dropout > 0 ? " dropout" : "",
                c.is_far ? " far" : "");
  return run_case(name, [&] { return check_call<T>(c); });
}

bool check_output(const char* what, const Problem& p) {
  return run_case("float32  Tq" + std::to_string(p.c.Tq) + ", " + what, [&] {
    Call<float> call(p);
    call.run(3);
    return end_case(worst(call.output, expected_of(p).output), 1e-5);
  });
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
  if (is_short()) return ok;
  Case low{2, 19, 21, 5, 6}, low_step{2, 2, 37, 5, 6};
  low.has_low_mask = low_step.has_low_mask = low_step.has_wild_lengths = true;
  ok &= check<T>(with(low, Kind::kAddedWide, 7, false, 0, false));
  ok &= check<T>(with(low_step, Kind::kAddedWide, 6, true, 0, false));
  Case wild{3, 20, 66, 4, 5};
  wild.has_wild_lengths = true;
  ok &= check<T>(with(wild, Kind::kBool, 7, true, 0, false));
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
