// Threads for one layer call: one OpenMP region, started from whatever thread torch calls us on.
#pragma once
#include <functional>

namespace fastcells::cpu {

// Threads that a call from here may use: torch's number within OMP_THREAD_LIMIT, or 1 inside a
// parallel region and in a forked child, whose OpenMP threads stayed behind in the parent.
int available_threads();

// Runs body(0) .. body(threads - 1) at the same time and waits for all. Throws, and nothing was
// run, where the runtime gives fewer threads. Inside, numbers below the normal range count as zero,
// as they would otherwise cost a hundred times the time of others.
void run_team(int threads, const std::function<void(int)>& body);

// `threads`, or 1 where work of so many seconds is sooner done alone: after a pause the others
// sleep, and often wake on the core of the thread that called, where they wait for the scheduler's
// next tick; and where they lately lost their cores to others. For work whose results do not depend
// on who does it. Costs microseconds, and nothing soon after a team.
int threads_now(int threads, double seconds_alone);

// While it lives torch's own operations too keep to one thread in a forked child.
class SerialInForkedChild {
 public:
  SerialInForkedChild();
  ~SerialInForkedChild();
  SerialInForkedChild(const SerialInForkedChild&) = delete;

 private:
  int before_ = 0;  // torch's number of threads, where it was changed
};

}  // namespace fastcells::cpu
