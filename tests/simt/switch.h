// From one stack to another, as AddressSanitizer wants to be told of it.
#pragma once
#include <ucontext.h>

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

struct Stack {
  ucontext_t context;
  const void* bottom = nullptr;  // the lowest address
  std::size_t size = 0;
  void* fake = nullptr;  // AddressSanitizer's, of a stack that is left for a while
};

// `from` is the running stack; `is_last`: nothing comes back to it.
inline void switch_stack(Stack& from, Stack& to, bool is_last = false) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(is_last ? nullptr : &from.fake, to.bottom, to.size);
  swapcontext(&from.context, &to.context);
  __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#else
  (void)is_last;
  swapcontext(&from.context, &to.context);
#endif
}

// First of all on a new stack, which was switched to from `from`.
inline void enter_stack(Stack& from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
#else
  (void)from;
#endif
}

}  // namespace simt
