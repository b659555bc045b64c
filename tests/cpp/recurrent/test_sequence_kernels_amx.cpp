// The machine code of the CPU sequence kernels on tiles, where the processor has AVX512-BF16: on
// AMX, or with the twin's answers (tile_traps.h).
#if defined(__x86_64__)
#include "processors.h"

int main() { return check_where(has_avx512_bf16(), "products of bfloat16"); }

#include "cpu/simd/amx.h"

#include "cpu/tile_permission.h"
#include "tile_cases.h"
#include "tile_traps.h"

int check() {
  using namespace fastcells;
  watch_guards();
  if (!cpu::may_use_tiles()) trap_tiles();
  const bool ok = check_tiles<GRU>();
  return have_released() && ok ? 0 : 1;
}
#else
int main() {}
#endif
