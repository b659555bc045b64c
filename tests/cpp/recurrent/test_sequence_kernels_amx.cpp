// The machine code of the CPU sequence kernels on tiles, where the processor has AVX512-BF16: on
// AMX, or with the twin's answers (tile_traps.h).
#if defined(__x86_64__)
#include "cpu/simd/amx.h"

#include "cpu/tile_permission.h"
#include "tile_cases.h"
#include "tile_traps.h"

int main() {
  using namespace fastcells;
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
    std::puts("skipped: this processor has no products of bfloat16");
    return 0;
  }
  watch_guards();
  if (!cpu::may_use_tiles()) trap_tiles();
  const bool ok = check_tiles<GRU>();
  return have_released() && ok ? 0 : 1;
}
#else
int main() {}
#endif
