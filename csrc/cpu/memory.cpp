#include "cpu/memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace fastcells::cpu {

void FreeMemory::operator()(void* p) const { std::free(p); }

Memory allocate(std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  void* const p = std::aligned_alloc(kLine, std::max(kLine, (bytes + kLine - 1) / kLine * kLine));
  if (!p) throw std::bad_alloc();
  return Memory(p);
}

}  // namespace fastcells::cpu
