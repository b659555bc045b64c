// Attention in plain loops of double, and buffers of storage for the kernels: what the tests of the
// CUDA attention kernels share. Letters: attention/args.h.
//
// Bounds: a kernel rounds to storage the weights and the gradients of the scores that enter a
// product (float32: in two parts, to 2^-21 or so), and the result. So beside each sum the sum of
// its terms' sizes is taken, and an error may be eps of (that + the result), with eps half a unit
// of storage, 2^-18 for float32 (an error of a score passes through the exponential), and a quarter
// more for the arithmetic. delta is made of the rounded output: its share of the error has the size
// of sum_e |dO O|. A floor stands for what underflows.
#pragma once
#include "cases.h"

#include <cfloat>
#include <cmath>
#include <random>

#include "attention/position.h"
#include "guarded.h"

namespace fastcells {

using Values = std::vector<double>;
enum class MaskKind { kNone, kBool, kAdded, kAddedWide };

struct AttentionCase {
  std::int64_t B, N, Nk, Tq, Tk, E, Ev;
  MaskKind mask = MaskKind::kNone;
  bool mask_batch = true, mask_head = true, mask_query = true, mask_key = true;  // or broadcast
  bool has_lengths = false;
  bool has_wild_lengths = false;  // out of range, which must be the nearest in it
  std::int64_t left = -1, right = -1, offset = 0;
  double softcap = 0, dropout = 0;
  bool has_weights = false;
  // Of an added mask: many numbers as low as float32 has them, some queries with nothing else.
  bool has_low_mask = false;
  bool heads_inside = false;  // [B, T, N, E], as layers have it; else [B, N, T, E]
  unsigned seed = 1;          // of the order of threads
  double scale = 0.7;
};

template <class T>
double rounded(double x) {
  return double(float(T(float(x))));
}
// A card's products of TF32 cut off what they shift out of a sum, which the emulator's round: seen
// on an H200 as 1.1 of the bound where E is 200. So float32 has twice as much there.
#ifdef __CUDACC__
constexpr double kFloatEps = 1.0 / (1 << 17);
#else
constexpr double kFloatEps = 1.0 / (1 << 18);
#endif
template <class T>
constexpr double kEps = sizeof(T) == 4                     ? kFloatEps
                        : std::is_same_v<T, __nv_bfloat16> ? 1.0 / (1 << 8)
                                                           : 1.0 / (1 << 11);

// A sum, and the sizes of its terms.
struct Sums {
  Values value, size;
  explicit Sums(std::int64_t count) : value(std::size_t(count)), size(std::size_t(count)) {}
  void add(std::int64_t at, double x, double more = 0) {
    value[at] += x, size[at] += std::abs(x) + more;
  }
};

// Everything there is, [B, N, Tq, ...], as the equations of the reference have it.
template <class T>
class AttentionProblem {
  std::mt19937 random_{7};  // the first of all: the others are drawn

 public:
  explicit AttentionProblem(const AttentionCase& c_)
      : c(c_),
        query(random(c.B * c.N * c.Tq * c.E, 1)),
        key(random(c.B * c.Nk * c.Tk * c.E, 1)),
        value(random(c.B * c.Nk * c.Tk * c.Ev, 1)),
        d_output(random(c.B * c.N * c.Tq * c.Ev, 1)),
        d_weights(random(c.has_weights ? c.B * c.N * c.Tq * c.Tk : 0, 1)),
        mask(std::size_t(mask_count())),
        output(c.B * c.N * c.Tq * c.Ev),
        d_query(c.B * c.N * c.Tq * c.E),
        d_key(c.B * c.Nk * c.Tk * c.E),
        d_value(c.B * c.Nk * c.Tk * c.Ev),
        d_mask(mask_count()) {
    for (double& x : mask) {
      x = rounded<T>(uniform() * 2);
      if (c.mask == MaskKind::kBool) x = uniform() > -0.4;
      if (is_added() && uniform() > 0.8) x = -INFINITY;
    }
    for (std::size_t k = 0; k < mask.size() && c.has_low_mask; ++k) {
      const bool is_low_row = c.mask_key && std::int64_t(k) / c.Tk % 3 == 1;
      if (is_low_row || uniform() > 0) mask[k] = -FLT_MAX;
    }
    hide_keys();
    for (std::int64_t b = 0; b < c.B && c.has_lengths; ++b) {
      lengths.push_back(c.Tk <= 2 ? b % 2 : b == 0 ? c.Tk - 2 : b == 1 ? 0 : c.Tk / 2);
      if (c.has_wild_lengths) lengths.back() = b == 1 ? 0 : c.Tk;
    }
    for (std::int64_t h = 0; h < c.B * c.N; ++h) {
      for (std::int64_t i = 0; i < c.Tq; ++i) add_row(h / c.N, h % c.N, i);
    }
    poison();
  }

  std::int64_t mask_count() const {
    if (c.mask == MaskKind::kNone) return 0;
    return (c.mask_batch ? c.B : 1) * (c.mask_head ? c.N : 1) * (c.mask_query ? c.Tq : 1) *
           (c.mask_key ? c.Tk : 1);
  }
  std::int64_t mask_at(std::int64_t b, std::int64_t n, std::int64_t i, std::int64_t j) const {
    std::int64_t at = c.mask_batch ? b : 0;
    at = at * (c.mask_head ? c.N : 1) + (c.mask_head ? n : 0);
    at = at * (c.mask_query ? c.Tq : 1) + (c.mask_query ? i : 0);
    return at * (c.mask_key ? c.Tk : 1) + (c.mask_key ? j : 0);
  }
  bool sees(std::int64_t b, std::int64_t i, std::int64_t j) const {
    const std::int64_t from = j - (i + c.offset);
    return (c.left < 0 || from >= -c.left) && (c.right < 0 || from <= c.right) &&
           (lengths.empty() || j < lengths[b]);
  }

  bool is_added() const { return c.mask == MaskKind::kAdded || c.mask == MaskKind::kAddedWide; }
  // Whether a query of head n sees key j, mask and all.
  bool sees(std::int64_t b, std::int64_t n, std::int64_t i, std::int64_t j) const {
    if (c.mask == MaskKind::kNone) return sees(b, i, j);
    const double x = mask[mask_at(b, n, i, j)];
    return sees(b, i, j) && (c.mask == MaskKind::kBool ? x != 0 : x != -INFINITY);
  }
  // [B, Nk, Tk]: keys that some query sees.
  std::vector<unsigned char> seen_keys() const {
    std::vector<unsigned char> seen(std::size_t(c.B * c.Nk * c.Tk), 0);
    for (std::int64_t h = 0; h < c.B * c.N; ++h) {
      const std::int64_t b = h / c.N, n = h % c.N, head = b * c.Nk + n / (c.N / c.Nk);
      for (std::int64_t i = 0; i < c.Tq; ++i) {
        for (std::int64_t j = 0; j < c.Tk; ++j) seen[head * c.Tk + j] |= sees(b, n, i, j);
      }
    }
    return seen;
  }

  AttentionCase c;
  Values query, key, value, d_output, d_weights, mask;
  std::vector<std::int64_t> lengths;
  Values logsumexp, weights;  // [B, N, Tq, 2], [B, N, Tq, Tk] after dropout
  Sums output, d_query, d_key, d_value, d_mask;

 private:
  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(random_); }
  Values random(std::int64_t count, double size) {
    Values result;
    for (std::int64_t i = 0; i < count; ++i) result.push_back(rounded<T>(size * uniform()));
    return result;
  }
  double kept(std::int64_t b, std::int64_t n, std::int64_t i, std::int64_t j) const {
    if (c.dropout == 0) return 1;
    std::uint32_t word[4];
    Philox::words(kSeed, std::uint32_t(j / 4), std::uint32_t(i), std::uint32_t(b * c.N + n), word);
    return word[j % 4] >= dropout_threshold(c.dropout) ? 1 / (1 - c.dropout) : 0;
  }

  // One query: forward, and what it adds to every gradient.
  void add_row(std::int64_t b, std::int64_t n, std::int64_t i) {
    const std::int64_t head = b * c.N + n, row = head * c.Tq + i;
    const std::int64_t keys = (b * c.Nk + n / (c.N / c.Nk)) * c.Tk;
    const double* const q = query.data() + row * c.E;
    const double* const d_o = d_output.data() + row * c.Ev;
    Values p(std::size_t(c.Tk)), slope(std::size_t(c.Tk), 1.0);
    double max = -INFINITY, sum = 0;
    for (std::int64_t j = 0; j < c.Tk; ++j) {
      double s = 0;
      for (std::int64_t e = 0; e < c.E; ++e) s += c.scale * q[e] * key[(keys + j) * c.E + e];
      if (c.softcap > 0) {
        const double y = std::tanh(s / c.softcap);
        s = c.softcap * y, slope[j] = 1 - y * y;
      }
      if (c.mask == MaskKind::kBool && mask[mask_at(b, n, i, j)] == 0) s = -INFINITY;
      if (is_added()) s += mask[mask_at(b, n, i, j)];
      p[j] = sees(b, i, j) ? s : -INFINITY;
      max = std::max(max, p[j]);
    }
    for (double& x : p) sum += x = max == -INFINITY ? 0 : std::exp(x - max);
    logsumexp.push_back(max), logsumexp.push_back(sum == 0 ? 0 : std::log(sum));
    double delta = 0, delta_size = 0;
    Values d_p(std::size_t(c.Tk)), factor(std::size_t(c.Tk));
    for (std::int64_t j = 0; j < c.Tk; ++j) {
      p[j] = sum == 0 ? 0 : p[j] / sum;
      factor[j] = kept(b, n, i, j);
      const double w = p[j] * factor[j];
      weights.push_back(w);
      double g = c.has_weights ? d_weights[row * c.Tk + j] : 0;
      for (std::int64_t e = 0; e < c.Ev; ++e) {
        const double v = value[(keys + j) * c.Ev + e];
        output.add(row * c.Ev + e, w * v);
        d_value.add((keys + j) * c.Ev + e, w * d_o[e]);
        g += d_o[e] * v;
      }
      d_p[j] = g, delta += w * g;
    }
    for (std::int64_t e = 0; e < c.Ev; ++e) {
      delta_size += std::abs(d_o[e] * output.value[row * c.Ev + e]);
    }
    for (std::int64_t j = 0; j < c.Tk; ++j) {
      const double d_s = p[j] * (factor[j] * d_p[j] - delta), size = p[j] * delta_size;
      if (is_added()) d_mask.add(mask_at(b, n, i, j), d_s, size);
      const double d = d_s * slope[j] * c.scale, more = size * slope[j] * std::abs(c.scale);
      for (std::int64_t e = 0; e < c.E; ++e) {
        const double k = key[(keys + j) * c.E + e];
        d_query.add(row * c.E + e, d * k, more * std::abs(k));
        d_key.add((keys + j) * c.E + e, d * q[e], more * std::abs(q[e]));
      }
    }
  }

  // Every fifth key is hidden from all queries by a mask that can.
  void hide_keys() {
    for (std::int64_t j = 2; j < c.Tk && c.mask_key && !mask.empty(); j += 5) {
      for (std::int64_t k = j; k < mask_count(); k += c.Tk) {
        mask[k] = c.mask == MaskKind::kBool ? 0 : -INFINITY;
      }
    }
  }
  // Keys that no query sees hold what must not be read.
  void poison() {
    const auto seen = seen_keys();
    for (std::int64_t k = 0; k < std::int64_t(seen.size()); ++k) {
      if (seen[k]) continue;
      std::fill_n(key.begin() + k * c.E, c.E, k % 2 ? NAN : INFINITY);
      std::fill_n(value.begin() + k * c.Ev, c.Ev, k % 2 ? INFINITY : NAN);
    }
  }

 public:
  static constexpr std::uint64_t kSeed = 0x1234567890abcdefull;
};

// [B, heads, rows, width] in storage, in one of two orders.
template <class T>
class StoredHeads {
 public:
  StoredHeads(const Values& x, std::int64_t heads, std::int64_t rows, std::int64_t width,
              bool heads_inside)
      : buffer_(std::int64_t(x.size())),
        view_{buffer_.data(), heads * rows * width, heads_inside ? width : rows * width,
              heads_inside ? heads * width : width} {
    for (std::int64_t i = 0; i < std::int64_t(x.size()); ++i) {
      const std::int64_t e = i % width, r = i / width;
      const std::int64_t t = r % rows, n = r / rows % heads, b = r / rows / heads;
      buffer_.data()[b * view_.batch + n * view_.head + t * view_.row + e] = T(float(x[i]));
    }
  }
  const HeadMatrix& view() const { return view_; }

 private:
  Guarded<T> buffer_;
  HeadMatrix view_;
};

template <class T>
std::vector<T> stored(const Values& x) {
  std::vector<T> result;
  for (const double v : x) result.push_back(T(float(v)));
  return result;
}

// The inputs of a call.
template <class T>
struct AttentionInputs {
  explicit AttentionInputs(const AttentionProblem<T>& p)
      : query(p.query, p.c.N, p.c.Tq, p.c.E, p.c.heads_inside),
        key(p.key, p.c.Nk, p.c.Tk, p.c.E, p.c.heads_inside),
        value(p.value, p.c.Nk, p.c.Tk, p.c.Ev, p.c.heads_inside),
        mask(stored<T>(p.mask)),
        wide_mask(p.mask.begin(), p.mask.end()),
        seen(p.seen_keys()),
        bools(p.mask.begin(), p.mask.end()),
        lengths(p.lengths) {
    for (std::size_t b = 0; b < lengths.size() && p.c.has_wild_lengths; ++b) {
      lengths[b] = b == 0 ? p.c.Tk + 3 : b == 1 ? -1 : INT64_MAX;
    }
  }

  void set(const AttentionProblem<T>& p, AttentionArgs& a) const {
    const AttentionCase& c = p.c;
    a.B = c.B, a.N = c.N, a.Nk = c.Nk, a.Tq = c.Tq, a.Tk = c.Tk, a.E = c.E, a.Ev = c.Ev;
    a.query = query.view(), a.key = key.view(), a.value = value.view();
    const bool is_bool = c.mask == MaskKind::kBool, has_mask = c.mask != MaskKind::kNone;
    a.mask.kind = !has_mask ? AttentionMask::Kind::kNone
                  : is_bool ? AttentionMask::Kind::kBool
                            : AttentionMask::Kind::kAdded;
    a.mask.data = is_bool ? static_cast<const void*>(bools.data()) : mask.data();
    if (c.mask == MaskKind::kAddedWide) {
      a.mask.kind = AttentionMask::Kind::kAddedWide, a.mask.data = wide_mask.data();
    }
    a.seen = has_mask ? reinterpret_cast<const bool*>(seen.data()) : nullptr;
    const std::int64_t keys = c.mask_key ? c.Tk : 1, rows = keys * (c.mask_query ? c.Tq : 1);
    a.mask.key = c.mask_key, a.mask.query = c.mask_query ? keys : 0;
    a.mask.head = c.mask_head ? rows : 0;
    a.mask.batch = c.mask_batch ? rows * (c.mask_head ? c.N : 1) : 0;
    a.key_lengths = lengths.empty() ? nullptr : lengths.data();
    a.scale = c.scale, a.softcap = c.softcap;
    a.left = c.left, a.right = c.right, a.offset = c.offset;
    a.dropout = {seed.data(), dropout_threshold(c.dropout), 1 / (1 - c.dropout), c.dropout > 0};
  }

  StoredHeads<T> query, key, value;
  std::vector<T> mask;
  std::vector<float> wide_mask;
  std::vector<unsigned char> seen, bools;
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> seed{std::int64_t(AttentionProblem<T>::kSeed)};  // on the heap
};

// ---- comparison ----

// The largest error in units of what it may be; infinite where it is not a number.
template <class T, class X>
double worst(const char* what, const Guarded<X>& got, const Values& expected, const Values& size,
             double eps = kEps<T>) {
  double error = got.is_intact() ? 0 : INFINITY;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double x = double(float(got.data()[i]));
    const double floor = sizeof(T) == 4 ? 1e-6 : 1e-5;
    const double bound = 1.25 * eps * (size[i] + std::abs(expected[i])) + floor;
    double ratio = std::abs(x - expected[i]) / bound;
    if (x == expected[i]) ratio = 0;  // infinities
    if (!(ratio <= error)) error = ratio;
    if (!(ratio <= 1)) {
      std::printf("  %s[%zu]: %g, expected %g +- %g\n", what, i, x, expected[i], bound);
      return INFINITY;
    }
  }
  return error;
}

template <class T>
const char* storage_name() {
  return sizeof(T) == 4 ? "float32" : std::is_same_v<T, __half> ? "float16" : "bfloat16";
}
template <class T>
std::string case_name(const AttentionCase& c) {
  char name[200];
  std::snprintf(name, sizeof name, "%-8s B=%d N=%d/%d Tq=%-3d Tk=%-3d E=%-3d Ev=%-3d mask=%d",
                storage_name<T>(), int(c.B), int(c.N), int(c.Nk), int(c.Tq), int(c.Tk), int(c.E),
                int(c.Ev), int(c.mask));
  std::snprintf(current_check, sizeof current_check, "%s", name);
  return name;
}
template <class X>
bool is_same(const Guarded<X>& a, const Guarded<X>& b, std::int64_t count) {
  return std::memcmp(a.data(), b.data(), std::size_t(count) * sizeof(X)) == 0;
}

}  // namespace fastcells
