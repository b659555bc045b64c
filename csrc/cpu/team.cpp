#include "cpu/team.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastcells::cpu {
namespace {

bool is_forked_child = false;
const int kAtFork = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });

// Flushes subnormal results and operands to zero while it lives.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | kFlushToZero | kOperandsAreZero);
  }
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  static constexpr unsigned kFlushToZero = 1u << 15, kOperandsAreZero = 1u << 6;
  const unsigned before_;
#else
  FlushSubnormals() {}
#endif
};

}  // namespace

int available_threads() {
  if (is_forked_child || omp_in_parallel() || at::in_parallel_region()) return 1;
  return at::get_num_threads();
}

bool run_team(int threads, const std::function<void(int)>& body) {
  if (threads == 1) {
    const FlushSubnormals flush;
    body(0);
    return true;
  }
  // The whole team of torch's size is started, and those not needed return at once: a team of
  // another size would make the runtime end and start threads.
  bool is_complete = true;
#pragma omp parallel
  {
    if (omp_get_num_threads() < threads) {
      if (omp_get_thread_num() == 0) is_complete = false;
    } else if (omp_get_thread_num() < threads) {
      const FlushSubnormals flush;
      body(omp_get_thread_num());
    }
  }
  return is_complete;
}

SerialInForkedChild::SerialInForkedChild() {
  if (!is_forked_child || at::get_num_threads() == 1) return;
  before_ = at::get_num_threads();
  at::set_num_threads(1);
}
SerialInForkedChild::~SerialInForkedChild() {
  if (before_) at::set_num_threads(before_);
}

void yield() { sched_yield(); }

}  // namespace fastcells::cpu
