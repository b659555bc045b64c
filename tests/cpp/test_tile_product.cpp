// Products on tiles, and the twin (tile_twin.h) that stands for the processor's.
#define FASTCELLS_VECTOR_BYTES 64
#pragma GCC optimize("O1")
#include "cpu/simd/baseline.h"
#include "tile_twin.h"

namespace fastcells {
namespace {
using Tiles = TileTwin;
}
}  // namespace fastcells

#include "tile_product_cases.h"

namespace fastcells {
namespace {

bool expect(const char* what, float got, float want) {
  if (std::memcmp(&got, &want, sizeof got) == 0) return true;
  std::printf("FAILED: %s: got %a, expected %a\n", what, got, want);
  return false;
}

std::uint16_t upper_half(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return std::uint16_t(bits >> 16);
}

// The sum of one row of `pairs` pairs with one column, from `start` on.
float pair_sum(float start, const std::vector<float>& a, const std::vector<float>& b) {
  const int pairs = int(a.size()) / 2;
  TileConfiguration shapes;
  shapes.rows[0] = shapes.rows[1] = 1, shapes.rows[2] = std::uint8_t(pairs);
  shapes.row_bytes[0] = shapes.row_bytes[2] = 4, shapes.row_bytes[1] = std::uint16_t(4 * pairs);
  Tiles::configure(shapes);
  std::uint16_t a_bits[32], b_bits[32];
  for (std::size_t k = 0; k < a.size(); ++k) {
    a_bits[k] = upper_half(a[k]), b_bits[k] = upper_half(b[k]);
  }
  Tiles::load<0>(&start, 4), Tiles::load<1>(a_bits, 64), Tiles::load<2>(b_bits, 4);
  Tiles::add_pairs<0, 1, 2>();
  float sum;
  Tiles::store<0>(&sum, 4);
  Tiles::release();
  return sum;
}

// What the manual says of the order, of rounding and of subnormal numbers, in numbers that tell.
bool check_pair_sums() {
  const float big = 0x1p24f, least = 0x1p-126f;
  bool ok = expect("plain", pair_sum(1, {2, 3}, {5, 7}), 32);
  // 2^24 + 1 is 2^24: even places among themselves, then odd ones, then both, then the start.
  ok &= expect("even places", pair_sum(0, {big, 0, 1, 0, -big, 0}, {1, 1, 1, 1, 1, 1}), 0);
  ok &= expect("apart", pair_sum(0, {big, 1, -big, 0}, {1, 1, 1, 1}), 1);
  ok &= expect("the start last", pair_sum(big, {1, 1}, {1, 1}), big + 2);
  ok &= expect("ties to even", pair_sum(0, {big, 0, 3, 0}, {1, 1, 1, 1}), big + 4);
  ok &= expect("subnormal factors", pair_sum(0, {least / 2, 0}, {big, 1}), 0);
  ok &= expect("subnormal start", pair_sum(least / 2, {0, 0}, {1, 1}), 0);
  ok &= expect("subnormal sum", pair_sum(1.5f * least, {least, 0}, {-1, 1}), 0);
  // A product is not rounded for itself.
  ok &= expect("subnormal product", pair_sum(0, {least, 0, 0x1p-70f, 0}, {1, 1, 0x1p-57f, 1}),
               1.5f * least);
  return ok;
}

bool check_quad_sums() {
  TileConfiguration shapes;
  for (int tile : {0, 1, 2}) shapes.rows[tile] = 1, shapes.row_bytes[tile] = 4;
  Tiles::configure(shapes);
  std::int32_t sum = INT32_MAX;
  const unsigned char a[] = {255, 255, 1, 0}, b[] = {0x80, 127, 0xFF, 9};  // -128, 127, -1
  Tiles::load<0>(&sum, 4), Tiles::load<1>(a, 4), Tiles::load<2>(b, 4);
  Tiles::add_quads<0, 1, 2>();
  Tiles::store<0>(&sum, 4);
  Tiles::add_quads<0, 1, 2>();
  Tiles::release();
  if (sum == INT32_MAX - 256) return true;
  std::printf("FAILED: sums of bytes: %d\n", sum);
  return false;
}

// Many panels, one configuration; and none is left behind.
bool check_configurations() {
  const int before = Tiles::configurations();
  for (int turn = 0; turn < 3; ++turn) check_product<PairTiles, 3>(40, 64, Init::kOneRow);
  release_tiles(), release_tiles();
  if (Tiles::configurations() == before + 1 && !Tiles::are_held()) return true;
  std::printf("FAILED: %d configurations\n", Tiles::configurations() - before);
  return false;
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  const bool ok = check_pair_sums() & check_quad_sums() & check_configurations();
  return check_tile_products() || !ok;
}
