// Whether AMX's tiles of bfloat16 and bytes may be used: by the processor, and by the system, whose
// permission is asked for here and then holds for the process and its children. Torch-free.
#pragma once
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastcells::cpu {

inline bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kOsXsave = 1u << 27;                    // leaf 1, ecx
  constexpr unsigned kAmx = 1u << 22 | 1u << 24 | 1u << 25;  // leaf 7, edx: bf16, tile, int8
  constexpr unsigned kTileConfiguration = 1u << 17, kTileData = 18;  // of xcr0; a bit, its number
  constexpr long kRequestPermission = 0x1023;                        // of arch_prctl
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAmx) != kAmx) return false;
  unsigned saved, upper;
  asm("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
  constexpr unsigned kStates = kTileConfiguration | 1u << kTileData;
  if ((saved & kStates) != kStates) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace fastcells::cpu
