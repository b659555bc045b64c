// A CUDA kernel on a CPU: one fiber a thread, in blocks and clusters.
//
// Only what threads can see of each other is modelled: shared memory of a block and its cluster,
// what a running grid shares of global memory, barriers, warps. A thread runs until it waits; who
// runs next is drawn from a seed. Reported, as a simt::Fault: deadlock; and for shared memory
// (simt/shared.h) reads of what was never written, addresses out of bounds or misaligned, and
// accesses without order (simt/faults.h). A launch that counts (simt/counters.h) does not look at
// orders: it is there for as many threads as a card runs.
#pragma once

#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>

#include "simt/counters.h"
#include "simt/faults.h"
#include "simt/switch.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

constexpr unsigned kWarp = 32;

// Lets `expected` threads go on together.
struct Barrier {
  unsigned expected = 0, arrived = 0, phase = 0;
  bool is_of_block = false;   // whole blocks meet here, and not a warp
  Clock gathering, gathered;  // of those who have arrived; of those who left together last
};

struct Warp {
  Barrier barrier;
  Times reads_over;               // of all lanes, when they showed that
  unsigned char slot[kWarp][64];  // what each lane shows the others
};

// mbarrier: arrivals and bytes that a phase still waits for.
struct TransactionBarrier {
  std::uint32_t arrivals = 0, arrivals_left = 0, phase = 0;
  std::int64_t bytes_left = 0;
  Clock gathering, gathered;
};

struct Block {
  dim3 index;
  unsigned place = 0;    // among the blocks that run together
  unsigned rank = 0;     // in its cluster
  unsigned running = 0;  // threads that have not ended
  std::vector<unsigned char> shared;
  std::vector<Granule> history;                                    // of shared
  std::map<std::size_t, TransactionBarrier> transaction_barriers;  // by address in shared
  Barrier barrier;
  std::map<unsigned, bool> votes;  // by phase of the barrier
  std::vector<Warp> warps;
  std::vector<WarpCounts> counts;  // of the warps; empty: nothing is counted
};

struct Fiber {
  Stack stack;
  std::unique_ptr<char[]> memory;  // of the stack
  dim3 thread;
  unsigned agent = 0;  // number among all threads that run together
  Block* block = nullptr;
  Clock clock;
  std::uint32_t async_time = 0;
  std::function<bool()> may_go_on;                         // empty: yes
  std::vector<std::vector<std::function<void()>>> copies;  // cp.async groups, the open one last
  bool is_done = false;
};

// A word of a packet: what is stored, and the reads that its writer knows to be over.
struct PacketWord {
  std::uint32_t value = 0;
  std::shared_ptr<const Times> over;
};

struct Machine {
  dim3 grid, threads;
  std::vector<std::unique_ptr<Block>> blocks;
  unsigned cluster_size = 1;
  std::vector<Barrier> cluster_barriers;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::map<const void*, Clock> counters;  // released clocks of global memory
  std::map<const void*, Granule> global;  // history of what is loaded and stored at the L2
  std::map<const void*, std::deque<PacketWord>> packet_words;  // on their way, the oldest first
  std::map<const void*, PacketWord> packets;                   // that have come last
  std::vector<std::function<void()>> sent;                     // stores on their way
  Fiber* running = nullptr;
  Stack scheduler;
  std::function<void()> kernel;
  std::exception_ptr error;
  Counters* counted = nullptr;  // nullptr: nothing is counted, and orders are looked at
};

inline thread_local Machine* machine = nullptr;
inline Fiber& self() { return *machine->running; }
inline unsigned linear_thread() {
  const dim3 t = self().thread, n = machine->threads;
  return t.x + n.x * (t.y + n.y * t.z);
}
inline unsigned lane() { return linear_thread() % kWarp; }
inline Warp& warp() { return self().block->warps[linear_thread() / kWarp]; }

// ---- counting ----

// The running thread's share of an access of its warp.
inline void see(Seen what, const Target& target) {
  std::vector<WarpCounts>& counts = self().block->counts;
  if (!counts.empty()) counts[linear_thread() / kWarp].see(lane(), what, target);
}
// What the emulator does not see by itself: an operation of the warp that says so.
inline void see_work() { see(Seen::kWork, {}); }
inline void meet(bool is_of_block) {
  std::vector<WarpCounts>& counts = self().block->counts;
  if (!counts.empty()) counts[linear_thread() / kWarp].meet(lane(), is_of_block);
}

// ---- clocks ----

inline bool looks_at_orders() { return machine->counted == nullptr; }
// A new event of the running thread.
inline Event tick() {
  if (!looks_at_orders()) return {};
  Fiber& f = self();
  f.clock.over[f.agent] = ++f.clock.order[f.agent];
  return {f.agent, f.clock.order[f.agent]};
}
// An event of what the running thread has set going and does not wait for: an agent of its own,
// that knows what the thread knew.
inline Event tick_async(Clock& known) {
  if (!looks_at_orders()) return {};
  Fiber& f = self();
  known = f.clock;
  return {f.agent + unsigned(machine->fibers.size()), ++f.async_time};
}

// ---- waiting ----

inline void wait_until(std::function<bool()> may_go_on) {
  Fiber& f = self();
  f.may_go_on = std::move(may_go_on);
  switch_stack(f.stack, machine->scheduler);
}
inline void arrive_and_wait(Barrier& barrier, bool orders_memory) {
  const unsigned phase = barrier.phase;
  meet(barrier.is_of_block);
  tick();
  if (orders_memory) join(barrier.gathering, self().clock);
  if (++barrier.arrived == barrier.expected) {
    barrier.gathered = std::move(barrier.gathering);
    barrier.gathering = {};
    barrier.arrived = 0, ++barrier.phase;
  }
  wait_until([&barrier, phase] { return barrier.phase != phase; });
  if (orders_memory) join(self().clock, barrier.gathered);
}

// ---- running ----

struct Options {
  unsigned seed = 0;
  unsigned cluster_size = 1;
  bool is_cooperative = false;   // all blocks at once; else cluster after cluster, in any order
  Counters* counters = nullptr;  // where to add what the launch does
};

inline void enter_fiber() {
  enter_stack(machine->scheduler);
  try {
    machine->kernel();
  } catch (...) {
    machine->error = std::current_exception();
  }
  self().is_done = true;
  --self().block->running;
  switch_stack(self().stack, machine->scheduler, true);
}

inline void add_fiber(Machine& m, Block& block, unsigned t) {
  constexpr std::size_t kStack = 256 << 10;
  auto fiber = std::make_unique<Fiber>();
  fiber->thread = {t % m.threads.x, t / m.threads.x % m.threads.y, t / (m.threads.x * m.threads.y)};
  fiber->agent = unsigned(m.fibers.size());
  fiber->block = &block;
  fiber->copies.resize(1);
  fiber->memory.reset(new char[kStack]);
  fiber->stack.bottom = fiber->memory.get(), fiber->stack.size = kStack;
  ucontext_t& context = fiber->stack.context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber->memory.get();
  context.uc_stack.ss_size = kStack;
  makecontext(&context, enter_fiber, 0);
  m.fibers.push_back(std::move(fiber));
}

inline void add_block(Machine& m, unsigned number, unsigned rank, std::size_t shared_bytes) {
  auto block = std::make_unique<Block>();
  const dim3 grid = m.grid, threads = m.threads;
  const unsigned count = threads.x * threads.y * threads.z;
  block->index = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
  block->place = unsigned(m.blocks.size()), block->rank = rank, block->running = count;
  block->shared.assign(shared_bytes, 0xff);  // NaN in every type of floats
  if (!m.counted) block->history.resize((shared_bytes + Granule::kBytes - 1) / Granule::kBytes);
  block->barrier.expected = count, block->barrier.is_of_block = true;
  block->warps.resize((count + kWarp - 1) / kWarp);
  if (m.counted) block->counts.resize(block->warps.size());
  for (std::size_t w = 0; w < block->warps.size(); ++w) {
    block->warps[w].barrier.expected = std::min(kWarp, count - unsigned(w) * kWarp);
  }
  for (unsigned t = 0; t < count; ++t) add_fiber(m, *block, t);
  m.blocks.push_back(std::move(block));
}

// One block of a grid that stands still for a while, then another: what it would have sent is late,
// by more than all threads going the same pace would ever show. Not while the others can only wait
// for it.
class Laggard {
 public:
  void next_round(std::size_t blocks, std::mt19937& random) {
    if (rounds_left_-- > 0) return;
    place_ = unsigned(random() % blocks), rounds_left_ = random() % kMostRounds;
  }
  bool holds(const Fiber& fiber) const { return fiber.block->place == place_; }
  void give_up() { place_ = ~0u; }

 private:
  static constexpr int kMostRounds = 64;
  unsigned place_ = ~0u;
  std::int64_t rounds_left_ = 0;
};

// Runs all threads of the machine to their end.
inline void run(Machine& m, std::mt19937& random) {
  for (auto& fiber : m.fibers) {
    if (m.counted) break;
    fiber->clock.order.assign(2 * m.fibers.size(), 0);
    fiber->clock.over = fiber->clock.order;
  }
  machine = &m;
  Laggard laggard;
  for (std::size_t left = m.fibers.size(); left > 0;) {
    // Some of what was sent arrives, in any order.
    std::shuffle(m.sent.begin(), m.sent.end(), random);
    for (std::size_t n = m.sent.empty() ? 0 : 1 + random() % m.sent.size(); n > 0; --n) {
      const auto arrive = std::move(m.sent.back());
      m.sent.pop_back();
      arrive();
    }
    if (m.cluster_barriers.size() > 1) laggard.next_round(m.blocks.size(), random);
    std::vector<Fiber*> ready, held;
    for (auto& fiber : m.fibers) {
      if (fiber->is_done || (fiber->may_go_on && !fiber->may_go_on())) continue;
      (laggard.holds(*fiber) ? held : ready).push_back(fiber.get());
    }
    if (ready.empty() && m.sent.empty()) {
      laggard.give_up();
      ready = held;
    }
    if (ready.empty() && m.sent.empty()) {
      machine = nullptr;
      throw Fault("deadlock: " + std::to_string(left) + " threads wait, and none can go on");
    }
    std::shuffle(ready.begin(), ready.end(), random);
    for (Fiber* fiber : ready) {
      fiber->may_go_on = nullptr;
      m.running = fiber;
      switch_stack(m.scheduler, fiber->stack);
      if (m.error) {
        machine = nullptr;
        std::rethrow_exception(m.error);
      }
      left -= fiber->is_done;
    }
  }
  for (const auto& arrive : m.sent) arrive();
  machine = nullptr;
  for (const auto& block : m.blocks) {
    if (m.counted) add_block(*m.counted, block->counts);
  }
}

// Runs kernel(args...) on every thread of the grid.
template <class Kernel, class... Args>
void launch(dim3 grid, dim3 threads, std::size_t shared_bytes, const Options& options,
            Kernel kernel, Args... args) {
  std::mt19937 random(options.seed);
  const unsigned blocks = grid.x * grid.y * grid.z, size = options.cluster_size;
  if (blocks % size != 0) throw Fault("the grid is no whole number of clusters");
  std::vector<unsigned> clusters(blocks / size);
  for (unsigned c = 0; c < clusters.size(); ++c) clusters[c] = c;
  std::shuffle(clusters.begin(), clusters.end(), random);
  const std::size_t at_once = options.is_cooperative ? clusters.size() : 1;
  for (std::size_t first = 0; first < clusters.size(); first += at_once) {
    Machine m;
    m.grid = grid, m.threads = threads, m.cluster_size = size, m.counted = options.counters;
    m.kernel = [&] { kernel(args...); };
    m.cluster_barriers.resize(at_once);
    for (Barrier& barrier : m.cluster_barriers) {
      barrier.expected = size * threads.x * threads.y * threads.z, barrier.is_of_block = true;
    }
    for (std::size_t c = first; c < first + at_once; ++c) {
      for (unsigned rank = 0; rank < size; ++rank) {
        add_block(m, clusters[c] * size + rank, rank, shared_bytes);
      }
    }
    run(m, random);
  }
}

}  // namespace simt
