// `new` and `delete` of the programs that run on a card. A file of its own: to nvcc they would be
// functions of the device, too.
#include "card/memory.h"

void* operator new(std::size_t bytes) { return card::take(bytes); }
void* operator new[](std::size_t bytes) { return card::take(bytes); }
void operator delete(void* p) noexcept { card::give(p); }
void operator delete[](void* p) noexcept { card::give(p); }
void operator delete(void* p, std::size_t) noexcept { card::give(p); }
void operator delete[](void* p, std::size_t) noexcept { card::give(p); }
