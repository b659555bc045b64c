// main() of a test for one instruction set. Included before that set's header: what follows it is
// compiled for it, and main() itself could then hold an instruction that this processor lacks.
#pragma once
#if defined(__x86_64__)
#include <cstdio>

// The tests of the file that includes this, behind its instruction set; 0 where all hold.
int check();

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

inline int check_where(bool is_there, const char* what) {
  if (is_there) return check();
  std::printf("skipped: this processor has no %s\n", what);
  return 0;
}
#endif
