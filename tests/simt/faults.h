// What the emulator reports, and the order of events by which it knows.
//
// Every thread has a clock of all threads (a vector clock). A barrier joins the clocks of those who
// meet there, a release leaves one behind for whoever acquires it. Two accesses to the same memory
// of which one writes must be ordered by these clocks, whatever order the threads happened to run
// in.
//
// A value that passes from lane to lane in registers (a shuffle, a product of the warp) orders no
// memory, but whoever has it knows that the reads are over from which it was made. So a clock is
// two.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace simt {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Times = std::vector<std::uint32_t>;  // [agents]: events of each up to these

inline void join(Times& into, const Times& other) {
  if (into.size() < other.size()) into.resize(other.size());
  for (std::size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
}

// An access: whose, and its own time then.
struct Event {
  std::uint32_t agent = 0, time = 0;  // time 0: none
  bool is_within(const Times& times) const {
    return time == 0 || (agent < times.size() && times[agent] >= time);
  }
};

struct Clock {
  Times order;  // what lies before, for any access
  Times over;   // reads that are over: these too

  void pass(Event event) {
    if (event.time > 0) order[event.agent] = over[event.agent] = event.time;
  }
};
inline void join(Clock& into, const Clock& other) {
  join(into.order, other.order);
  join(into.over, other.over);
}

// The history of a piece of memory; in shared memory two bytes, the smallest element of the
// kernels.
class Granule {
 public:
  static constexpr std::size_t kBytes = 2;

  Granule() = default;
  // Of memory that was written before any thread began.
  static Granule initialised() {
    Granule granule;
    granule.is_initialised_ = true;
    return granule;
  }

  // Empty if the access is in order, else what is wrong.
  std::string read(Event now, const Clock& clock) {
    if (last_write_.time == 0 && !is_initialised_) return "is read, but was never written";
    if (!last_write_.is_within(clock.order)) {
      return "is read without order after the write by " + name(last_write_);
    }
    note_read(now);
    return "";
  }
  // A read that may come before or after any write.
  void note_read(Event now) {
    const auto place =
        std::lower_bound(reads_.begin(), reads_.end(), now,
                         [](const Event& a, const Event& b) { return a.agent < b.agent; });
    if (place != reads_.end() && place->agent == now.agent) {
      place->time = now.time;
    } else {
      reads_.insert(place, now);
    }
  }
  std::string write(Event now, const Clock& clock) {
    if (!last_write_.is_within(clock.order)) {
      return "is written without order after the write by " + name(last_write_);
    }
    for (const Event& read : reads_) {
      if (read.agent != now.agent && !read.is_within(clock.over)) {
        return "is written without order after the read by " + name(read);
      }
    }
    last_write_ = now;
    reads_.clear();
    return "";
  }

 private:
  static std::string name(Event event) { return "thread " + std::to_string(event.agent); }

  bool is_initialised_ = false;
  Event last_write_;
  std::vector<Event> reads_;  // since then, by agent
};

}  // namespace simt
