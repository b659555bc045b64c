// Errors of the float activations against double, over every exponent: no torch, no GPU.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

#include "math/activations.h"

using namespace fastcells;

namespace {

double ulp(double exact) {
  const float rounded = static_cast<float>(std::fabs(exact));
  return std::nextafterf(rounded, INFINITY) - rounded;
}

// Worst error in ulp over floats of both signs, `stride` bit patterns apart, with |x| <= limit.
// Results below the smallest normal number are compared with that number's ulp.
template <class F, class Exact>
double worst_ulp(F f, Exact exact, float low, float high) {
  constexpr std::uint32_t kStride = 211;  // a prime: no mantissa pattern is favoured
  double worst = 0;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += kStride) {
    const auto pattern = static_cast<std::uint32_t>(bits);
    float x;
    std::memcpy(&x, &pattern, sizeof x);
    if (!(x >= low && x <= high)) continue;
    const double want = exact(static_cast<double>(x));
    const double smallest = std::numeric_limits<float>::min();
    const double unit = ulp(std::fabs(want) < smallest ? smallest : want);
    worst = std::fmax(worst, std::fabs(f(x) - want) / unit);
  }
  return worst;
}

bool check(const char* name, double worst, double limit) {
  std::printf("%-10s %.2f ulp (at most %.1f)\n", name, worst, limit);
  return worst <= limit;
}

bool check_ends() {
  const float inf = INFINITY;
  bool ok = tanh(inf) == 1.0f && tanh(-inf) == -1.0f && sigmoid(inf) == 1.0f;
  ok = ok && sigmoid(-inf) == 0.0f && tanh(0.0f) == 0.0f;
  ok = ok && std::isnan(tanh(NAN)) && std::isnan(sigmoid(NAN)) && std::isnan(polynomial::exp(NAN));
  std::printf("%-10s %s\n", "ends", ok ? "ok" : "FAILED");
  return ok;
}

}  // namespace

int main() {
  bool ok = check("exp",
                  worst_ulp([](float x) { return polynomial::exp(x); },
                            [](double x) { return std::exp(x); }, -87.0f, 88.0f),
                  1.1);
  ok &= check("tanh",
              worst_ulp([](float x) { return tanh(x); }, [](double x) { return std::tanh(x); },
                        -INFINITY, INFINITY),
              1.5);
  ok &= check("sigmoid",
              worst_ulp([](float x) { return sigmoid(x); },
                        [](double x) { return 1 / (1 + std::exp(-x)); }, -87.0f, INFINITY),
              1.9);
  ok &= check_ends();
  return ok ? 0 : 1;
}
