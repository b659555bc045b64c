#include "cpu/team.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void* place);
extern "C" void __tsan_release(void* place);
#endif

namespace fastcells::cpu {
namespace {

// ThreadSanitizer sees nothing of OpenMP's own barriers at a region's beginning and end: what was
// done before `release` at a place is seen after `acquire` there.
#ifdef __SANITIZE_THREAD__
void release(char& place) { __tsan_release(&place); }
void acquire(char& place) { __tsan_acquire(&place); }
#else
void release(char&) {}
void acquire(char&) {}
#endif

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

// The clocks of the processor time of this thread's team, by number; and when it last ended.
struct TeamClocks {
  std::vector<clockid_t> clocks;
  std::chrono::steady_clock::time_point end;
};
thread_local TeamClocks last_team;

std::int64_t nanoseconds(clockid_t clock) {
  timespec t{};
  return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000LL + t.tv_nsec : -1;
}

// Whether the other threads lose their cores: a team took longer than the thread that called would
// have taken alone, by what a scheduler's slice is. Then small calls keep off for a while, twice as
// long each time it happens again.
class Crowd {
 public:
  // The next team's work, in seconds of one thread.
  void expect(double seconds_alone) { seconds_alone_ = seconds_alone; }
  void note(std::chrono::steady_clock::duration took) {
    using namespace std::chrono;
    constexpr double kSliceSeconds = 2e-3;
    constexpr auto kLeast = milliseconds(20), kMost = milliseconds(640);
    if (seconds_alone_ <= 0) return;
    if (duration<double>(took).count() > 2 * seconds_alone_ + kSliceSeconds) {
      rest_ = std::clamp<milliseconds>(2 * rest_, kLeast, kMost);
      until_ = steady_clock::now() + rest_;
    } else {
      rest_ = milliseconds(0);
    }
    seconds_alone_ = 0;
  }
  bool is_over(std::chrono::steady_clock::time_point now) const { return now >= until_; }

 private:
  double seconds_alone_ = 0;
  std::chrono::milliseconds rest_{0};
  std::chrono::steady_clock::time_point until_;
};
thread_local Crowd crowd;

// Spins, then sleeps.
void wait_for_none(const std::atomic<int>& running) {
  constexpr int kTurns = 4000;  // about 70 us
  for (int turns = 0; turns < kTurns && running > 0; ++turns) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  for (int left = running; left > 0; left = running) running.wait(left);
}

}  // namespace

int available_threads() {
  if (is_forked_child || omp_in_parallel() || at::in_parallel_region()) return 1;
  return std::min(at::get_num_threads(), omp_get_thread_limit());
}

void run_team(int threads, const std::function<void(int)>& body) {
  if (threads == 1) {
    const FlushSubnormals flush;
    return body(0);
  }
  // The whole team of torch's size is started, and those not needed return at once: a team of
  // another size would make the runtime end and start threads.
  const int may_be_smaller = omp_get_dynamic();
  omp_set_dynamic(0);
  int started = 0;
  std::atomic<int> running{threads};
  TeamClocks& team = last_team;
  team.clocks.assign(threads, clockid_t());
  const auto start = std::chrono::steady_clock::now();
  char begins = 0, ends = 0;  // the places of these two barriers
  release(begins);
#pragma omp parallel
  {
    acquire(begins);
    if (omp_get_thread_num() == 0) started = omp_get_num_threads();
    if (omp_get_num_threads() >= threads && omp_get_thread_num() < threads) {
      const FlushSubnormals flush;
      pthread_getcpuclockid(pthread_self(), &team.clocks[omp_get_thread_num()]);
      body(omp_get_thread_num());
      if (--running == 0) running.notify_one();
    }
    // OpenMP's own wait would spin for milliseconds on a core that another thread waits for.
    if (omp_get_thread_num() == 0 && started >= threads) wait_for_none(running);
    release(ends);
  }
  acquire(ends);
  team.end = std::chrono::steady_clock::now();
  crowd.note(team.end - start);
  omp_set_dynamic(may_be_smaller);
  TORCH_CHECK(started >= threads, "fastcells: OpenMP started ", started, " of ", threads,
              " threads; call torch.set_num_threads with fewer");
}

namespace {

// Whether the threads of this thread's last team run now, spinning or at another work.
bool is_team_awake(int threads) {
  using namespace std::chrono;
  const TeamClocks& team = last_team;
  if (int(team.clocks.size()) < threads) return false;
  const auto now = steady_clock::now();
  std::vector<std::int64_t> before;
  for (int i = 1; i < threads; ++i) before.push_back(nanoseconds(team.clocks[i]));
  while (steady_clock::now() - now < microseconds(2)) continue;
  for (int i = 1; i < threads; ++i) {
    if (nanoseconds(team.clocks[i]) <= before[i - 1]) return false;
  }
  return true;
}

}  // namespace

int threads_now(int threads, double seconds_alone) {
  using std::chrono::steady_clock;
  constexpr double kWakeSeconds = 8e-3;  // until a thread that slept is at work, at worst
  // Soon after a team its threads spin, or sleep lightly: they wake on cores of their own.
  constexpr auto kSoon = std::chrono::milliseconds(8);
  // Calls in quick succession go on, and waking pays: so many, or as much work as waking may cost.
  constexpr int kBurst = 16;
  thread_local steady_clock::time_point last_question;
  thread_local int burst = 0;
  thread_local double burst_seconds = 0;
  if (threads == 1 || seconds_alone >= kWakeSeconds) return threads;
  const auto now = steady_clock::now();
  // From the end of the call before, which began with its question.
  const bool goes_on = now - last_question < kSoon + std::chrono::duration<double>(burst_seconds);
  burst = goes_on ? burst + 1 : 0;
  burst_seconds = goes_on ? burst_seconds + seconds_alone : seconds_alone;
  last_question = now;
  if (!crowd.is_over(now)) return 1;
  if (now - last_team.end < kSoon || burst >= kBurst ||
      (burst > 0 && burst_seconds >= kWakeSeconds) || is_team_awake(threads)) {
    crowd.expect(seconds_alone);
    burst = 0, burst_seconds = 0;
    return threads;
  }
  return 1;
}

SerialInForkedChild::SerialInForkedChild() {
  if (!is_forked_child || at::get_num_threads() == 1) return;
  before_ = at::get_num_threads();
  at::set_num_threads(1);
}
SerialInForkedChild::~SerialInForkedChild() {
  if (before_) at::set_num_threads(before_);
}

}  // namespace fastcells::cpu
