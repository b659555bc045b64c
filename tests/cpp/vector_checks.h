// Checks of cpu/simd/vector.h at the width and instruction set that the including file chooses:
// errors of the activations against double, NaN and the ends, edges of memory, bfloat16, select.
#pragma once
#include <cmath>
#include <limits>

#include "cpu/simd/vector.h"
#include "guarded.h"

namespace fastcells {
namespace {

using V = Vector<float>;
constexpr int L = V::kLanes;
// In ulp, with and without fused multiply-adds, which change the second decimal alone.
constexpr double kMostExp = 1.1, kMostTanh = 1.5, kMostSigmoid = 1.9;

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

bool report(const char* name, bool is_ok) {
  std::printf("%-22s %s\n", name, is_ok ? "ok" : "FAILED");
  return is_ok;
}

// ---- activations ----

// Below the smallest normal number its unit counts.
double error_in_ulp(float got, double exact) {
  const double smallest = std::numeric_limits<float>::min();
  const float rounded = float(std::fmax(std::fabs(exact), smallest));
  return std::fabs(got - exact) / (std::nextafterf(rounded, INFINITY) - rounded);
}

// Over every kStride-th bit pattern of a float from low to high.
template <class F, class Exact>
bool check_errors(const char* name, double limit, float low, float high, F f, Exact exact) {
  constexpr std::uint32_t kStride = 419;  // a prime: no mantissa pattern is favoured
  double worst = 0;
  float worst_at = 0, x[L], y[L];
  int filled = 0;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += kStride) {
    x[filled] = float_of(std::uint32_t(bits));
    if (!(x[filled] >= low && x[filled] <= high) || ++filled < L) continue;
    filled = 0;
    store(y, f(load(x)));
    for (int i = 0; i < L; ++i) {
      const double error = error_in_ulp(y[i], exact(double(x[i])));
      if (!(error <= worst)) worst = error, worst_at = x[i];
    }
  }
  std::printf("%-22s %.3f ulp at %.9g (at most %.1f)\n", name, worst, worst_at, limit);
  return worst <= limit;
}

bool check_activations() {
  bool ok = check_errors(
      "exp", kMostExp, -87.336f, polynomial::kExpHigh, [](V x) { return polynomial::exp(x); },
      [](double x) { return std::exp(x); });
  ok &= check_errors(
      "tanh", kMostTanh, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max(),
      [](V x) { return tanh(x); }, [](double x) { return std::tanh(x); });
  ok &= check_errors(
      "sigmoid", kMostSigmoid, -87.336f, std::numeric_limits<float>::max(),
      [](V x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); });
  return ok;
}

// In each lane in turn, with harmless neighbours.
bool check_ends() {
  const float inf = INFINITY, nan = NAN;
  const auto in_every_lane = [](float value, auto f, auto is_right) {
    for (int lane = 0; lane < L; ++lane) {
      V x(0.5f);
      x.v[lane] = value;
      const V y = f(x), half = f(V(0.5f));
      if (!is_right(float(y.v[lane]))) return false;
      for (int i = 0; i < L; ++i) {
        if (i != lane && y.v[i] != half.v[i]) return false;
      }
    }
    return true;
  };
  const auto equals = [](float want) { return [want](float y) { return y == want; }; };
  const auto is_nan = [](float y) { return std::isnan(y); };
  const auto tanh_of = [](V x) { return tanh(x); };
  const auto sigmoid_of = [](V x) { return sigmoid(x); };
  const auto exp_of = [](V x) { return polynomial::exp(x); };
  bool ok = in_every_lane(nan, tanh_of, is_nan) && in_every_lane(nan, sigmoid_of, is_nan);
  ok = ok && in_every_lane(nan, exp_of, is_nan) && in_every_lane(inf, tanh_of, equals(1));
  ok = ok && in_every_lane(-inf, tanh_of, equals(-1)) && in_every_lane(inf, sigmoid_of, equals(1));
  ok = ok && in_every_lane(-inf, sigmoid_of, equals(0));
  ok = ok && in_every_lane(polynomial::kExpLow, exp_of, equals(0));
  for (const float zero : {0.0f, -0.0f}) {
    ok = ok && in_every_lane(zero, tanh_of, equals(0)) && in_every_lane(zero, exp_of, equals(1));
    ok = ok && in_every_lane(zero, sigmoid_of, equals(0.5f));
  }
  return report("NaN, infinity, zero", ok);
}

bool check_double() {
  using D = Vector<double>;
  bool ok = true;
  for (double x = -40; x < 40; x += 0.37) {
    D v(0.5);
    v.v[D::kLanes - 1] = x;
    const double t = tanh(v).v[D::kLanes - 1], s = sigmoid(v).v[D::kLanes - 1];
    ok = ok && t == std::tanh(x) && s == 1 / (1 + std::exp(-x)) && tanh(v).v[0] == std::tanh(0.5);
  }
  return report("double", ok);
}

// ---- memory ----

// Loads and stores of the first n elements reach neither past them nor in front, and a load gives
// zeros after them.
template <class T, class S>
bool check_first(const char* name) {
  using W = Vector<S>;
  bool ok = true;
  for (int n = 0; n <= W::kLanes; ++n) {
    std::snprintf(current_check, sizeof current_check, "%s of the first %d", name, n);
    std::vector<T> values(n);
    for (int i = 0; i < n; ++i) {
      const S value = S(i + 1);
      if constexpr (sizeof(T) == 2) {
        values[i].bits = std::uint16_t(bits_of(value) >> 16);
      } else {
        values[i] = value;
      }
    }
    const Guarded<T> from(values);
    const W x = load_first(from.data(), n);
    for (int i = 0; i < W::kLanes; ++i) ok = ok && x.v[i] == (i < n ? S(i + 1) : S(0));
    Guarded<T> to(n);
    store_first(to.data(), x, n);
    ok = ok && to.is_intact() && std::memcmp(to.data(), from.data(), n * sizeof(T)) == 0;
    std::vector<T> wide(W::kLanes + 1);
    std::memset(wide.data(), 0xff, wide.size() * sizeof(T));
    store_first(wide.data(), x, n);
    for (int i = n; i <= W::kLanes; ++i) ok = ok && is_untouched(wide[i]);
  }
  return report(name, ok);
}

// ---- bfloat16 ----

// The nearer of the two neighbours, of two as near the even one: in double, where all is exact.
std::uint16_t nearest_bfloat16(float x) {
  const std::uint32_t bits = bits_of(x), sign = bits & 0x80000000u;
  const std::uint32_t below = (bits & 0x7fffffffu) >> 16, above = below + 1;
  const auto value = [](std::uint32_t half) {
    return half == 0x7f80 ? std::ldexp(1.0, 128) : double(float_of(half << 16));
  };
  const double size = std::fabs(double(x)), down = size - value(below), up = value(above) - size;
  const bool is_above = up < down || (up == down && above % 2 == 0);
  return std::uint16_t(sign >> 16 | (is_above ? above : below));
}

bool check_bfloat16() {
  constexpr std::uint32_t kLower[] = {0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff};
  bool ok = true;
  for (std::uint32_t upper = 0; upper <= 0xffff; upper += L) {
    for (const std::uint32_t lower : kLower) {
      V x;
      for (int i = 0; i < L; ++i) x.v[i] = float_of((upper + i) << 16 | lower);
      BFloat16Bits stored[L], first[L] = {};
      store(stored, x);
      store_first(first, x, L - 1);
      const V back = rounded_to<BFloat16Bits>(x), loaded = load(stored);
      for (int i = 0; i < L; ++i) {
        const float from = x.v[i];
        const std::uint16_t got = stored[i].bits;
        const std::uint32_t widened = std::uint32_t(got) << 16;
        ok = ok && bits_of(back.v[i]) == widened && bits_of(loaded.v[i]) == widened;
        ok = ok && first[i].bits == (i < L - 1 ? got : 0);
        if (std::isnan(from)) {
          ok = ok && std::isnan(float_of(widened));
        } else {
          ok = ok && got == (std::isinf(from) ? bits_of(from) >> 16 : nearest_bfloat16(from));
        }
      }
    }
  }
  return report("bfloat16", ok);
}

// ---- conditions ----

bool check_select() {
  const float values[] = {-INFINITY, -1, -0.0f, 0.0f, 1, INFINITY, NAN};
  bool ok = true;
  for (const float left : values) {
    for (const float right : values) {
      for (int lane = 0; lane < L; ++lane) {
        V a(right), yes(1.0f), no(2.0f);
        a.v[lane] = left;
        const V less = select(a < V(right), yes, no), most = select(a <= V(right), yes, no);
        const V more = select(a > V(right), yes, no);
        ok = ok && less.v[lane] == (left < right ? 1 : 2) && more.v[lane] == (left > right ? 1 : 2);
        ok = ok && most.v[lane] == (left <= right ? 1 : 2);
        const int other = (lane + 1) % L;
        ok = ok && less.v[other] == 2 && more.v[other] == 2;
        ok = ok && most.v[other] == (right <= right ? 1 : 2);
      }
    }
  }
  return report("select", ok);
}

// The program's exit status.
__attribute__((noinline)) int check_vectors() {
  watch_guards();
  std::printf("vectors of %d bytes\n", kVectorBytes);
  bool ok = check_activations();
  ok &= check_ends();
  ok &= check_double();
  ok &= check_first<float, float>("float at an edge");
  ok &= check_first<double, double>("double at an edge");
  ok &= check_first<BFloat16Bits, float>("bfloat16 at an edge");
  ok &= check_bfloat16();
  ok &= check_select();
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
