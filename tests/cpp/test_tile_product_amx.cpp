// The machine code of tiles: its instructions against their twin (tile_twin.h), and products. On a
// processor without AMX, which has the vectors' products, the twin answers for it (tile_traps.h):
// then this finds a wrong operand, but not what the twin has wrong.
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx512_bf16(), "products of bfloat16"); }

#include "cpu/simd/amx.h"

#include "cpu/tile_permission.h"
#include "tile_product_cases.h"
#include "tile_traps.h"

namespace fastcells {
namespace {

std::mt19937 generator{11};

// A tile's memory: bfloat16 of ordinary size and, among them, what is special.
struct Memory {
  alignas(64) unsigned char bytes[kMostTileRows][kTileRowBytes];
  void draw(bool are_pairs) {
    constexpr std::uint16_t kSpecial[] = {0,      0x8000, 1,      0x807F, 0x80,
                                          0x7F7F, 0x7F80, 0xFF80, 0x7FC0};
    for (auto& row : bytes) {
      for (int k = 0; k < kTileRowBytes; k += 2) {
        std::uint16_t half = std::uint16_t(generator());
        const unsigned kind = generator() % 400;
        if (are_pairs) half = (half & 0x87FF) | 0x3C00;
        if (are_pairs && kind < std::size(kSpecial)) half = kSpecial[kind];
        std::memcpy(row + k, &half, sizeof half);
      }
    }
  }
};

template <class AnyTiles, bool kArePairs>
void run(const TileConfiguration& shapes, const Memory& a, const Memory& b, Memory& sums) {
  AnyTiles::configure(shapes);
  AnyTiles::template load<0>(sums.bytes, kTileRowBytes);
  AnyTiles::template load<1>(a.bytes, kTileRowBytes);
  AnyTiles::template load<2>(b.bytes, kTileRowBytes);
  if constexpr (kArePairs) {
    AnyTiles::template add_pairs<0, 1, 2>();
  } else {
    AnyTiles::template add_quads<0, 1, 2>();
  }
  AnyTiles::template store<0>(sums.bytes, kTileRowBytes);
  AnyTiles::release();
}

// What the elements of each sum's products amount to, signs left out.
double magnitude(const Memory& a, const Memory& b, int depth, float before, int row, int column) {
  double total = std::fabs(before);
  for (int k = 0; k < 2 * depth; ++k) {
    const auto value = [](const unsigned char* at) {
      std::uint16_t half;
      std::memcpy(&half, at, sizeof half);
      const std::uint32_t bits = std::uint32_t(half) << 16;
      float x;
      std::memcpy(&x, &bits, sizeof x);
      return double(x);
    };
    total +=
        std::fabs(value(a.bytes[row] + 2 * k) * value(b.bytes[k / 2] + 4 * column + k % 2 * 2));
  }
  return total;
}
// Equal bits; NaN is NaN. Of sums of floats on a processor's own tiles what rounding and the order
// of additions may change: no processor has yet been seen to keep the manual's.
bool are_equal(const Memory& x, const Memory& y, const Memory& a_tile, const Memory& b_tile,
               const Memory& before, int depth, bool are_floats) {
  static const bool is_hardware = cpu::may_use_tiles();
  for (int i = 0; i < kMostTileRows * kTileRowBytes / 4; ++i) {
    float a, b, c;
    std::memcpy(&a, &x.bytes[0][0] + 4 * i, sizeof a);
    std::memcpy(&b, &y.bytes[0][0] + 4 * i, sizeof b);
    std::memcpy(&c, &before.bytes[0][0] + 4 * i, sizeof c);
    if (std::memcmp(&a, &b, sizeof a) == 0 || (are_floats && a != a && b != b)) continue;
    const int columns = kTileRowBytes / 4;
    const double most = magnitude(a_tile, b_tile, depth, c, i / columns, i % columns);
    if (are_floats && is_hardware && !(std::fabs(double(a) - b) > 1e-6 * most)) continue;
    std::printf("FAILED: tile %a, twin %a\n", a, b);
    return false;
  }
  return true;
}

template <bool kArePairs>
bool check_instruction() {
  for (int trial = 0; trial < 500; ++trial) {
    const int rows = 1 + generator() % 16, depth = 1 + generator() % 16,
              columns = 1 + generator() % 16;
    TileConfiguration shapes;
    shapes.rows[0] = shapes.rows[1] = std::uint8_t(rows), shapes.rows[2] = std::uint8_t(depth);
    shapes.row_bytes[0] = shapes.row_bytes[2] = std::uint16_t(4 * columns);
    shapes.row_bytes[1] = std::uint16_t(4 * depth);
    Memory a, b, sums;
    a.draw(kArePairs), b.draw(kArePairs), sums.draw(kArePairs);
    const Memory before = sums;
    Memory twin = sums;
    run<Tiles, kArePairs>(shapes, a, b, sums);
    run<TileTwin, kArePairs>(shapes, a, b, twin);
    if (!are_equal(sums, twin, a, b, before, depth, kArePairs)) return false;
  }
  return true;
}

}  // namespace
}  // namespace fastcells

int check() {
  using namespace fastcells;
  if (cpu::may_use_tiles()) {
    std::puts("on the processor's tiles");
  } else {
    std::puts("on tiles of the twin: this processor has none, or the system refuses them");
    trap_tiles();
  }
  const bool ok = check_instruction<true>() & check_instruction<false>();
  std::printf("instructions: %s\n", ok ? "ok" : "FAILED");
  return check_tile_products() || !ok;
}
#else
int main() {}
#endif
