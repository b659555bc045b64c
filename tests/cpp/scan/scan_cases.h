// The CPU scan kernels of one instruction set, chosen by the including file's first include,
// against plain loops: in watched buffers that begin as NaN, lanes in tiles and time in chunks.
#pragma once
#include <cstring>
#include <numeric>

#include "guarded.h"
#include "scan/cpu/kernels/table.h"
#include "scan_problem.h"

namespace fastcells {
namespace {

template <class N>
constexpr ScanStorage kStorage = {std::is_same_v<typename N::T, double>         ? Storage::kFloat64
                                  : std::is_same_v<typename N::T, BFloat16Bits> ? Storage::kBFloat16
                                  : std::is_same_v<typename N::T, HalfBits>     ? Storage::kFloat16
                                                                                : Storage::kFloat32,
                                  N::kParts == 2};

template <class T>
T narrow(double x) {
  if constexpr (sizeof(T) == 2) {
    T result;
    store_first(&result, Vector<float>(float(x)), 1);
    return result;
  } else {
    return T(x);
  }
}
template <class T>
double widen(T x) {
  if constexpr (sizeof(T) == 2) {
    return load_first(&x, 1).v[0];
  } else {
    return x;
  }
}
template <class N>
Exact rounded(Exact x) {
  using T = typename N::T;
  return {widen(narrow<T>(x.real())), N::kParts == 2 ? widen(narrow<T>(x.imag())) : 0};
}

template <class N>
class ScanRun {
  using T = typename N::T;
  using S = typename N::S;
  static constexpr int kParts = N::kParts;
  using Buffer = Guarded<T>;

 public:
  // Tiles of so many vectors; 0: all lanes. Rows one after the other, or side by side.
  ScanRun(const Case& c, std::int64_t tile_vectors, bool is_side_by_side)
      : p_(c, rounded<N>),
        is_side_by_side_(is_side_by_side),
        rows_(is_side_by_side ? 1 : c.B),
        lanes_(c.B / rows_ * c.H * kParts),
        tile_(tile_vectors ? tile_vectors * Vector<S>::kLanes : lanes_),
        a_(stored(is_side_by_side ? wide_factors() : p_.a)),
        b_(stored(p_.b)),
        grad_(stored(p_.grad)),
        h_0_(stored(p_.h_0)),
        kept_(stored(p_.h)),
        lengths_(p_.lengths),
        resets_(p_.resets),
        by_length_(sorted_by_length(p_.lengths)) {}

  bool check(double bound) {
    Buffer h(p_.count() * kParts), d_a(p_.count() * kParts), d_b(p_.count() * kParts);
    Buffer d_h_0(p_.lanes() * kParts);
    Guarded<S> sums(p_.lanes() * kParts);
    ScanForwardArgs forward = arguments<ScanForwardArgs>();
    forward.b = full(b_), forward.h = result(h), forward.h_0 = p_.c.h_0 ? h_0_.data() : nullptr;
    run([&](const auto& task, S* state, S*) { kernels_.forward(forward, task, state); },
        [&](const auto& task, S* state, S* product) {
          return kernels_.forward_summary(forward, task, state, product);
        });
    ScanBackwardArgs back = arguments<ScanBackwardArgs>();
    back.grad_h = full(grad_), back.h = full(kept_), back.h_0 = forward.h_0;
    back.d_b = result(d_b), back.d_h_0 = d_h_0.data();
    const bool has_sums = p_.c.factor == Case::kUnit && p_.c.chunks == 1;
    if (has_sums) {
      back.d_a_sums = sums.data();
    } else {
      back.d_a = result(d_a);
    }
    run([&](const auto& task, S* state, S* more) { kernels_.backward(back, task, state, more); },
        [&](const auto& task, S* state, S* product) {
          return kernels_.backward_summary(back, task, state, product);
        });
    const double of_factor = has_sums ? error(sums, p_.d_a_sums) : error(d_a, p_.d_a);
    const double error_found =
        std::max({error(h, p_.h), error(d_b, p_.d_b), of_factor, error(d_h_0, p_.d_h_0)});
    const bool ok = error_found <= bound && h.is_intact() && d_a.is_intact() && d_b.is_intact() &&
                    d_h_0.is_intact() && sums.is_intact();
    if (!ok) std::printf("FAILED: %s: %.1e of %.1e\n", current_check, error_found, bound);
    return ok;
  }

 private:
  static Buffer stored(const Exacts& values) {
    std::vector<T> all;
    for (const Exact x : values) {
      all.push_back(narrow<T>(x.real()));
      if (kParts == 2) all.push_back(narrow<T>(x.imag()));
    }
    return Buffer(all);
  }
  template <class X>
  static double error(const Guarded<X>& found, const Exacts& expected) {
    return worst(expected, [&](std::size_t i) -> Exact {
      const X* const x = found.data() + i * kParts;
      return {widen(x[0]), kParts == 2 ? widen(x[kParts - 1]) : 0};
    });
  }
  ScanOperand full(const Buffer& x) const { return {x.data(), rows_ * lanes_, lanes_, 1}; }
  ScanResult result(Buffer& x) const { return {x.data(), rows_ * lanes_, lanes_}; }
  // Of all lanes, as the layout expands them for rows side by side.
  Exacts wide_factors() const {
    Exacts all;
    const std::int64_t steps = p_.c.factor == Case::kUnit ? 1 : p_.c.T;
    for (std::int64_t i = 0; i < steps * p_.lanes(); ++i) {
      all.push_back(p_.c.factor == Case::kFull   ? p_.a[i]
                    : p_.c.factor == Case::kUnit ? p_.a[i % p_.c.H]
                                                 : p_.a[i / p_.c.H]);
    }
    return all;
  }
  static std::vector<std::int64_t> sorted_by_length(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int64_t> rows(lengths.size());
    std::iota(rows.begin(), rows.end(), 0);
    std::sort(rows.begin(), rows.end(), [&](auto x, auto y) { return lengths[x] < lengths[y]; });
    return rows;
  }

  template <class Args>
  Args arguments() {
    const Case& c = p_.c;
    Args args{};
    args.T = c.T, args.B = rows_, args.H = lanes_, args.units = c.H * kParts;
    if (is_side_by_side_ && c.lengths) args.by_length = by_length_.data();
    args.rows = {c.lengths ? lengths_.data() : nullptr,
                 c.resets ? reinterpret_cast<const bool*>(resets_.data()) : nullptr, c.T, c.B,
                 c.reverse};
    const bool is_full = c.factor == Case::kFull || (is_side_by_side_ && c.factor == Case::kRow);
    args.a = is_full                   ? full(a_)
             : c.factor == Case::kUnit ? ScanOperand{a_.data(), 0, 0, 1}
                                       : ScanOperand{a_.data(), c.B * kParts, kParts, 0};
    return args;
  }

  // Chunk after chunk from the state in front of it, which the summary of the one before must give.
  template <class Walk, class Summary>
  void run(const Walk& walk, const Summary& summarise) {
    const std::int64_t steps = (p_.c.T + p_.c.chunks - 1) / p_.c.chunks;
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t first = 0; first < lanes_; first += tile_) {
        const std::int64_t last = std::min(first + tile_, lanes_), count = last - first;
        Guarded<S> state(count), ahead(count), product(count), sums(2 * count), scratch(2 * count);
        std::memset(static_cast<void*>(sums.data()), 0, 2 * count * sizeof(S));
        for (std::int64_t begin = 0; begin < p_.c.T; begin += steps) {
          const std::int64_t end = std::min(begin + steps, p_.c.T);
          const cpu::ScanTask task{row, first, last, begin, end, scratch.data()};
          if (is_side_by_side_) {
            walk(task, state.data(), sums.data());
            continue;
          }
          const bool reaches = summarise(task, ahead.data(), product.data());
          if (reaches && begin > 0) {
            kernels_.combine(count, product.data(), state.data(), ahead.data());
          }
          walk(task, state.data(), sums.data());
          std::memcpy(state.data(), ahead.data(), count * sizeof(S));
        }
      }
    }
  }

  const cpu::ScanKernels& kernels_ = *find_scan(kStorage<N>);
  Problem<Exact (*)(Exact)> p_;
  const bool is_side_by_side_;
  const std::int64_t rows_, lanes_, tile_;
  Buffer a_, b_, grad_, h_0_, kept_;
  Guarded<std::int64_t> lengths_;
  Guarded<unsigned char> resets_;
  std::vector<std::int64_t> by_length_;
};

template <class N>
bool check_numbers(const char* name, double bound) {
  constexpr Case kCases[] = {
      {19, 3, 50, 1, false, false, false, true},
      {23, 5, 7, 3, true, true, true, true},
      {1, 2, 3, 1, true, false, false, true},
      {40, 1, 1, 7, false, false, true, true},
      {33, 4, 5, 4, false, true, true, true, Case::kUnit},
      {33, 4, 5, 1, true, true, true, true, Case::kUnit},
      {300, 1, 3, 1, false, false, false, false, Case::kUnit},
      {17, 6, 33, 2, true, false, true, false, Case::kRow},
      {9, 7, 2, 1, false, true, false, true, Case::kRow},
      {13, 1, 300, 1, true, false, false, true},
      {21, 40, 1, 1, false, true, false, true},
      {21, 9, 3, 1, true, true, false, true},
      {300, 7, 2, 1, false, true, true, true, Case::kUnit},
      {280, 6, 1, 1, true, true, true, false, Case::kUnit},
      {25, 6, 5, 1, false, false, true, true},
      {25, 6, 5, 1, true, false, true, true},
  };
  bool ok = true;
  for (const Case& c : kCases) {
    for (const int tile : {0, 1}) {
      std::snprintf(current_check, sizeof current_check,
                    "scan of %s, T%d B%d H%d, %d chunks, tile %d%s%s%s, factor %d", name, int(c.T),
                    int(c.B), int(c.H), int(c.chunks), tile, c.reverse ? " reverse" : "",
                    c.lengths ? " lengths" : "", c.resets ? " resets" : "", int(c.factor));
      ok &= ScanRun<N>(c, tile, false).check(bound);
      if (c.chunks > 1 || c.B == 1) continue;
      std::strcat(current_check, ", rows side by side");
      ok &= ScanRun<N>(c, tile, true).check(bound);
    }
  }
  return ok;
}

int check_scan_kernels() {
  watch_guards();
  bool ok = check_numbers<Real<float, float>>("float32", 4e-6);
  ok &= check_numbers<Real<double, double>>("float64", 1e-13);
  ok &= check_numbers<Real<HalfBits, float>>("float16", 2e-3);
  ok &= check_numbers<Real<BFloat16Bits, float>>("bfloat16", 1.6e-2);
  ok &= check_numbers<Complex<float>>("complex64", 8e-6);
  ok &= check_numbers<Complex<double>>("complex128", 2e-13);
  if (ok) std::printf("the scan kernels of %s: ok\n", Instructions::kName);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
