// Products of rows with panels on tiles (recurrent/cpu/kernels/tile_panels.h), whatever does their
// work, against plain loops: every number of rows from 1 to 70, sums that begin with a row, with
// rows of their own and with what is there, depths that miss a tile. Included behind a struct
// Tiles.
#pragma once
#include <algorithm>
#include <memory>
#include <random>

#include "guarded.h"
#include "recurrent/cpu/kernels/tile_panels.h"

namespace fastcells {
namespace {

enum class Init { kNothing, kOneRow, kRows, kOutput };

inline float random_number() {
  static std::mt19937 generator{7};
  static std::normal_distribution<float> normal;
  return normal(generator);
}
inline float as_bfloat16(float x) {
  BFloat16Bits bits;
  store_first(&bits, Vector<float>(x), 1);
  return load_first(&bits, 1).v[0];
}

// n rows of P's elements, and a panel of R vectors, with the numbers that they stand for.
template <class P, int R>
class Factors {
 public:
  static constexpr std::int64_t kColumns = R * 16;
  using Row = typename P::Row;

  Factors(std::int64_t n, std::int64_t K)
      : rows_(n * P::row_length(K)),
        panel_(P::template bytes<R>(K)),
        ranges_(2 * n),
        x_(n * K),
        w_(K * kColumns) {
    std::vector<float> row(K);
    for (std::int64_t i = 0; i < n; ++i) {
      for (float& x : row) x = random_number();
      Row* const to = rows_.data() + i * P::row_length(K);
      P::convert(row.data(), K, to, &ranges_[i], &ranges_[n + i]);
      for (std::int64_t k = 0; k < K; ++k) {
        x_[i * K + k] = is_quantized()
                            ? double(ranges_[n + i]) +
                                  double(ranges_[i]) * reinterpret_cast<unsigned char*>(to)[k]
                            : as_bfloat16(row[k]);
      }
    }
    is_quantized() ? pack_bytes(K) : pack_pairs(K);
  }
  const Row* rows() { return rows_.data(); }
  const void* panel() { return panel_.data(); }
  const float* scale() const { return ranges_.data(); }
  const float* least(std::int64_t n) const { return ranges_.data() + n; }
  double product(std::int64_t i, std::int64_t K, std::int64_t j) const {
    double sum = 0;
    for (std::int64_t k = 0; k < K; ++k) sum += x_[i * K + k] * w_[k * kColumns + j];
    return sum;
  }
  bool are_intact() const { return rows_.is_intact() && panel_.is_intact(); }
  // To a twin: all that may be loaded.
  template <class AnyTiles>
  void declare([[maybe_unused]] std::int64_t n, [[maybe_unused]] std::int64_t K) {
    if constexpr (requires { AnyTiles::declare_nothing(); }) {
      AnyTiles::declare_nothing();
      AnyTiles::declare(rows_.data(), n * P::row_length(K) * std::int64_t(sizeof(Row)));
      AnyTiles::declare(panel_.data(), P::template bytes<R>(K));
    }
  }

 private:
  static constexpr bool is_quantized() { return std::is_same_v<Row, Int8Quad>; }
  void pack_pairs(std::int64_t K) {
    if constexpr (!is_quantized()) {
      for (double& w : w_) w = as_bfloat16(random_number());
      for (std::int64_t k = 0; k < K; k += 64) {
        const std::int64_t steps = at_most(64, K - k);
        const std::vector<float> piece(w_.begin() + k * kColumns,
                                       w_.begin() + (k + steps) * kColumns);
        P::template put<R>(piece.data(), k, steps, panel_.data());
      }
    }
  }
  void pack_bytes(std::int64_t K) {
    if constexpr (is_quantized()) {
      std::vector<std::int8_t> bytes(K * kColumns);
      const std::int8_t* columns[kColumns];
      float scales[kColumns];
      for (std::int64_t j = 0; j < kColumns; ++j) {
        columns[j] = bytes.data() + j * K, scales[j] = 0.01f * float(j + 1);
        for (std::int64_t k = 0; k < K; ++k) {
          bytes[j * K + k] = std::int8_t(std::clamp(50 * random_number(), -127.f, 127.f));
          w_[k * kColumns + j] = double(scales[j]) * bytes[j * K + k];
        }
      }
      P::template pack<R>(columns, scales, K, panel_.data());
    }
  }

  Guarded<Row> rows_;
  Guarded<unsigned char> panel_;
  std::vector<float> ranges_;
  std::vector<double> x_, w_;
};

template <class P, int R>
bool check_product(std::int64_t n, std::int64_t K, Init init) {
  constexpr std::int64_t kColumns = R * 16, kStride = kColumns + 5;
  std::snprintf(current_check, sizeof current_check,
                "%zu bytes an element's: n%ld K%ld R%d, init %d", sizeof(typename P::Row), long(n),
                long(K), R, int(init));
  Factors<P, R> factors(n, K);
  std::vector<float> given(n * kStride);
  for (float& x : given) x = 100 * random_number();
  Guarded<float> out((n - 1) * kStride + kColumns);
  if (init == Init::kOutput) {
    std::copy(given.begin(), given.end() - 5, out.data());
  }
  const float* const from = init == Init::kNothing  ? nullptr
                            : init == Init::kOutput ? out.data()
                                                    : given.data();
  const std::int64_t init_stride = init == Init::kOneRow ? 0 : kStride;
  const auto* const first = factors.rows();
  factors.template declare<Tiles>(n, K);
  P::template multiply<R>(n, {&first, factors.scale(), factors.least(n)}, K, factors.panel(), from,
                          init_stride, out.data(), kStride, nullptr);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < (i + 1 < n ? kStride : kColumns); ++j) {
      const float got = out.data()[i * kStride + j];
      if (j >= kColumns) {
        if (init == Init::kOutput || is_untouched(got)) continue;
      } else {
        const double start = from ? given[i * init_stride + j] : 0;
        const double want = start + factors.product(i, K, j);
        if (std::fabs(got - want) <= 2e-6 * (std::fabs(want) + 100 + double(K))) continue;
        std::printf("expected %.9g, ", want);
      }
      std::printf("FAILED: got %.9g in row %ld, column %ld of %s\n", got, long(i), long(j),
                  current_check);
      return false;
    }
  }
  if (std::is_same_v<typename P::Row, Int8Quad> && init == Init::kNothing) {
    // The last row by itself.
    const auto* const last = first + (n - 1) * P::row_length(K);
    float alone[kColumns];
    P::template multiply<R>(1, {&last, factors.scale() + n - 1, factors.least(n) + n - 1}, K,
                            factors.panel(), nullptr, 0, alone, kColumns, nullptr);
    if (std::memcmp(alone, out.data() + (n - 1) * kStride, sizeof alone) != 0) {
      std::printf("FAILED: other bits for one row alone of %s\n", current_check);
      return false;
    }
  }
  return factors.are_intact() && out.is_intact();
}

// Every size of a block of tiles occurs.
template <class P, int kFew, int kMany>
bool check_products() {
  bool ok = true;
  int init = 0;
  for (std::int64_t n = 1; n <= 70; ++n) {
    for (const std::int64_t K : {0, 1, 31, 64, 101, 130}) {
      ok = ok && check_product<P, kFew>(n, K, Init(init++ % 4)) &&
           check_product<P, kMany>(n, K, Init(init++ % 4));
    }
    ++init;
  }
  return ok;
}

// The program's exit status.
__attribute__((noinline)) int check_tile_products() {
  watch_guards();
  const bool ok = check_products<PairTiles, 2, 3>() && check_products<QuadTiles, 3, 4>();
  release_tiles();
  std::printf("products on tiles: %s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fastcells
