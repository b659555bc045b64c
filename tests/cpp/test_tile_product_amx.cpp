// The machine code of tiles: its instructions against their twin (tile_twin.h), bit for bit, and
// products. On a processor without AMX, which has the vectors' products, the twin answers for it
// (tile_traps.h): then this finds a wrong operand, but not what the twin has wrong.
#if defined(__x86_64__)
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

// Equal bits; NaN is NaN.
bool are_equal(const Memory& x, const Memory& y, bool are_floats) {
  for (int i = 0; i < kMostTileRows * kTileRowBytes / 4; ++i) {
    float a, b;
    std::memcpy(&a, &x.bytes[0][0] + 4 * i, sizeof a);
    std::memcpy(&b, &y.bytes[0][0] + 4 * i, sizeof b);
    if (std::memcmp(&a, &b, sizeof a) == 0 || (are_floats && a != a && b != b)) continue;
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
    Memory twin = sums;
    run<Tiles, kArePairs>(shapes, a, b, sums);
    run<TileTwin, kArePairs>(shapes, a, b, twin);
    if (!are_equal(sums, twin, kArePairs)) return false;
  }
  return true;
}

}  // namespace
}  // namespace fastcells

int main() {
  using namespace fastcells;
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
    std::puts("skipped: this processor has no products of bfloat16");
    return 0;
  }
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
