// The CUDA kernels of the scan, under the emulator or on a card, against plain loops in double:
// every type of number, both directions, the adjoint, lengths, resets, chunks of time, factors that
// are broadcast. What does not exist is NaN.
#include "cases.h"

#include <cstring>

#include "scan/cuda/backward.cuh"
#include "scan/cuda/forward.cuh"
#include "scan_problem.h"

namespace fastcells {
namespace {

using cuda::ComplexNumber, cuda::RealNumber, cuda::ScanChunks;

template <class N>
struct IsComplex : std::false_type {};
template <class S>
struct IsComplex<ComplexNumber<S>> : std::true_type {};

// A number as it is stored, and back.
template <class N>
typename N::T stored(Exact x) {
  if constexpr (IsComplex<N>::value) {
    using S = decltype(typename N::T{}.re);
    return {S(x.real()), S(x.imag())};
  } else {
    return typename N::T(typename N::A(x.real()));
  }
}
template <class X>
Exact exact(X x) {
  if constexpr (requires { x.re; }) {
    return {double(x.re), double(x.im)};
  } else if constexpr (std::is_same_v<X, double>) {
    return {x, 0};
  } else {
    return {double(float(x)), 0};
  }
}
template <class X>
std::vector<X> unwritten(std::int64_t count) {
  std::vector<X> all(std::size_t(count) + 1);  // an address, even of none
  std::memset(static_cast<void*>(all.data()), 0xff, all.size() * sizeof(X));
  return all;
}

template <class N>
std::vector<typename N::T> stored(const Exacts& values) {
  std::vector<typename N::T> all;
  for (const Exact x : values) all.push_back(stored<N>(x));
  all.emplace_back();  // an address, even of none
  return all;
}

// How a call runs its kernels here.
struct RunKernel {
  template <class Kernel, class... Args>
  cudaError_t operator()(std::int64_t blocks, Kernel kernel, const Args&... args) const {
    simt::launch({unsigned(blocks)}, {unsigned(cuda::kScanThreads)}, 0, {1}, kernel, args...);
    return cudaSuccess;
  }
};

template <class N>
class Scan {
  using T = typename N::T;
  using A = typename N::A;

 public:
  explicit Scan(const Case& c)
      : p_(c, [](Exact x) { return exact(stored<N>(x)); }),
        a_(stored<N>(p_.a)),
        b_(stored<N>(p_.b)),
        grad_(stored<N>(p_.grad)),
        h_0_(stored<N>(p_.h_0)),
        h_(stored<N>(p_.h)) {}

  double forward_error() {
    std::vector<T> h = unwritten<T>(p_.count());
    ScanForwardArgs args = arguments<ScanForwardArgs>();
    args.b = full(b_), args.h = result(h), args.h_0 = p_.c.h_0 ? h_0_.data() : nullptr;
    run_with_chunks([&](const ScanChunks& chunks) {
      cuda::run_scan<N>(args, chunks, cuda::scan_forward_kernel<N, false>,
                        cuda::scan_forward_kernel<N, true>, RunKernel());
    });
    return error(h, p_.h);
  }

  double backward_error() {
    std::vector<T> d_a = unwritten<T>(p_.count()), d_b = d_a, d_h_0 = unwritten<T>(p_.lanes());
    std::vector<A> sums = unwritten<A>(chunk_count() * p_.lanes());
    ScanBackwardArgs args = arguments<ScanBackwardArgs>();
    args.grad_h = full(grad_), args.h = full(h_);
    args.h_0 = p_.c.h_0 ? h_0_.data() : nullptr;
    args.d_b = result(d_b), args.d_h_0 = d_h_0.data();
    const bool has_sums = p_.c.factor == Case::kUnit;
    if (has_sums) {
      args.d_a_sums = sums.data();
    } else {
      args.d_a = result(d_a);
    }
    run_with_chunks([&](const ScanChunks& chunks) {
      cuda::run_scan<N>(args, chunks, cuda::scan_backward_kernel<N, false>,
                        cuda::scan_backward_kernel<N, true>, RunKernel());
    });
    const double of_factor = has_sums ? error_of_sums(sums) : error(d_a, p_.d_a);
    return std::max({of_factor, error(d_b, p_.d_b), error(d_h_0, p_.d_h_0)});
  }

 private:
  template <class X>
  static double error(const std::vector<X>& found, const Exacts& expected) {
    return worst(expected, [&](std::size_t i) { return exact(found[i]); });
  }
  double error_of_sums(const std::vector<A>& sums) const {
    return worst(p_.d_a_sums, [&](std::size_t i) {
      Exact sum;
      for (std::int64_t k = 0; k < chunk_count(); ++k) sum += exact(sums[k * p_.lanes() + i]);
      return sum;
    });
  }
  ScanOperand full(const std::vector<T>& x) const { return {x.data(), p_.lanes(), p_.c.H, 1}; }
  ScanResult result(std::vector<T>& x) const { return {x.data(), p_.lanes(), p_.c.H}; }

  template <class Args>
  Args arguments() {
    const Case& c = p_.c;
    Args args{};
    args.T = c.T, args.B = c.B, args.H = c.H;
    args.rows = {c.lengths ? p_.lengths.data() : nullptr,
                 c.resets ? reinterpret_cast<const bool*>(p_.resets.data()) : nullptr, c.T, c.B,
                 c.reverse};
    args.a = c.factor == Case::kFull   ? full(a_)
             : c.factor == Case::kUnit ? ScanOperand{a_.data(), 0, 0, 1}
                                       : ScanOperand{a_.data(), c.B, 1, 0};
    return args;
  }
  std::int64_t steps() const { return (p_.c.T + p_.c.chunks - 1) / p_.c.chunks; }
  std::int64_t chunk_count() const { return (p_.c.T + steps() - 1) / steps(); }
  template <class Run>
  void run_with_chunks(const Run& run) {
    const std::int64_t count = chunk_count(), numbers = (count - 1) * p_.lanes();
    if (count == 1) return run(ScanChunks{{1, steps()}, nullptr, nullptr, nullptr, nullptr});
    std::vector<A> states = unwritten<A>(numbers), products = states;
    std::vector<unsigned char> reaches = unwritten<unsigned char>(numbers);
    std::vector<unsigned char> is_whole = unwritten<unsigned char>(p_.lanes());
    run(ScanChunks{{count, steps()},
                   states.data(),
                   products.data(),
                   reinterpret_cast<bool*>(reaches.data()),
                   reinterpret_cast<bool*>(is_whole.data())});
  }

  Problem<Exact (*)(Exact)> p_;
  std::vector<T> a_, b_, grad_, h_0_, h_;
};

template <class N>
struct Facts;
template <>
struct Facts<RealNumber<float, float>> {
  static constexpr const char* kName = "float32";
  static constexpr double kBound = 4e-6;
};
template <>
struct Facts<RealNumber<double, double>> {
  static constexpr const char* kName = "float64";
  static constexpr double kBound = 1e-13;
};
template <>
struct Facts<RealNumber<__half, float>> {
  static constexpr const char* kName = "float16";
  static constexpr double kBound = 2e-3;
};
template <>
struct Facts<RealNumber<__nv_bfloat16, float>> {
  static constexpr const char* kName = "bfloat16";
  static constexpr double kBound = 1.6e-2;
};
template <>
struct Facts<ComplexNumber<float>> {
  static constexpr const char* kName = "complex64";
  static constexpr double kBound = 8e-6;
};
template <>
struct Facts<ComplexNumber<double>> {
  static constexpr const char* kName = "complex128";
  static constexpr double kBound = 2e-13;
};

template <class N>
bool check(const Case& c) {
  constexpr const char* kFactors[] = {"", " [H]", " [T, B, 1]"};
  bool ok = true;
  for (const bool is_backward : {false, true}) {
    char name[200];
    std::snprintf(name, sizeof name, "scan %s %s T%d B%d H%d, %d chunks%s%s%s%s%s%s",
                  is_backward ? "back" : "forward", Facts<N>::kName, int(c.T), int(c.B), int(c.H),
                  int(c.chunks), c.reverse ? " reverse" : "", c.lengths ? " lengths" : "",
                  c.resets ? " resets" : "", c.h_0 ? " h_0" : "", kFactors[c.factor],
                  c.overflows ? " overflow" : "");
    ok &= run_case(name, [&] {
      Scan<N> scan(c);
      const double error = is_backward ? scan.backward_error() : scan.forward_error();
      return end_case(error, Facts<N>::kBound);
    });
  }
  return ok;
}

template <class N>
bool check_all() {
  bool ok = true;
  ok &= check<N>({19, 3, 50, 1, false, false, false, true});
  ok &= check<N>({23, 5, 7, 3, true, true, true, true});
  if (is_short()) return ok;
  ok &= check<N>({1, 2, 3, 1, true, false, false, true});
  ok &= check<N>({40, 1, 1, 7, false, false, true, true});
  ok &= check<N>({33, 4, 5, 4, false, true, true, true, Case::kUnit});
  ok &= check<N>({33, 4, 5, 1, true, true, true, true, Case::kUnit});
  ok &= check<N>({300, 1, 3, 1, false, false, false, false, Case::kUnit});
  ok &= check<N>({17, 6, 33, 2, true, false, true, false, Case::kRow});
  ok &= check<N>({9, 70, 2, 1, false, true, false, true, Case::kRow});
  ok &= check<N>({150, 2, 3, 75, true, true, true, true, Case::kUnit});
  ok &= check<N>({150, 2, 3, 75, false, false, true, true});
  ok &= check<N>({300, 2, 3, 3, false, false, false, false, Case::kFull, true});
  ok &= check<N>({300, 2, 3, 5, true, false, false, false, Case::kFull, true});
#ifdef __CUDACC__
  ok &= check<N>({4096, 1, 3, 60, false, false, false, true});
  ok &= check<N>({700, 9, 300, 1, true, true, true, true});
#endif
  return ok;
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  bool ok = check_all<RealNumber<float, float>>();
  ok &= check_all<RealNumber<double, double>>();
  ok &= check_all<RealNumber<__half, float>>();
  ok &= check_all<RealNumber<__nv_bfloat16, float>>();
  ok &= check_all<ComplexNumber<float>>();
  ok &= check_all<ComplexNumber<double>>();
  return ok ? 0 : 1;
}
