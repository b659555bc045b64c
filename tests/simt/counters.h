// What a card would be kept busy with, counted while a kernel runs under the emulator.
//
// The emulator sees addresses lane by lane. A warp's access is the n-th of its kind, width and
// array in every lane since the warp last met (a barrier, a shuffle, a product): lanes that took
// another way are no part of it.
//
//   wavefronts     of shared memory, 32 banks of 4 bytes: for each access of a warp the most words
//                  of one bank. Of 8 bytes a lane half a warp at a time, of 16 a quarter. What
//                  other blocks send is not in it
//   segments sent  of 32 bytes, to other blocks of a cluster or to what a grid shares of global
//                  memory: different ones of an access of a warp
//   arrivals       wavefronts of what is sent to other blocks of a cluster, if all that an access
//                  of a warp sends to one block arrived together: so many lanes at a time
//   segments read  likewise, from what a grid shares
//   operations     of a warp: such accesses, shuffles, products, and what a kernel says it does
//                  (see_work). Arithmetic and plain global memory are not seen
//   single-warp    operations of a block's intervals in which one warp alone has any. An interval
//                  ends where all threads of a block wait: its barrier, the cluster's, an mbarrier
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace simt {

// Of a launch.
struct Counters {
  std::int64_t wavefronts = 0, segments_sent = 0, segments_read = 0, arrivals = 0;
  std::int64_t operations = 0, single_warp = 0;

  bool operator==(const Counters&) const = default;
};

enum class Seen { kSharedRead, kSharedWrite, kSent, kGlobalWrite, kGlobalRead, kRegisters, kWork };

// The address of what a lane sends to its own block. That of what it sends to another has this
// block's number above kBlockBits: further apart than any shared memory.
constexpr std::uint64_t kNowhere = ~std::uint64_t(0);
constexpr unsigned kBlockBits = 32;
// Where a lane's access is: `array` tells apart those that are no access together.
struct Target {
  std::size_t size = 0;
  std::uint64_t array = 0, address = 0;
};

// The accesses of one warp.
class WarpCounts {
 public:
  void see(unsigned lane, Seen what, const Target& target) {
    Lane& l = lanes_[lane];
    const Kind kind{what, target.size, target.array};
    Access& access = accesses_[{l.meetings, kind, l.seen[kind]++}];
    access.addresses[lane] = target.address, access.lanes |= 1u << lane;
    access.interval = l.intervals;
  }
  // The lane has come to where its warp meets; or to where its block waits, too.
  void meet(unsigned lane, bool is_block) {
    Lane& l = lanes_[lane];
    ++l.meetings, l.intervals += is_block;
    l.seen.clear();
    constexpr std::size_t kMany = 512;  // that lie here uncounted
    if (accesses_.size() > kMany) count_until(first_open());
  }
  // At the end.
  void close() { count_until(~0u); }

  const Counters& counters() const { return counters_; }
  const std::map<unsigned, std::int64_t>& operations() const { return operations_; }

 private:
  static constexpr unsigned kLanes = 32, kBanks = 32, kWord = 4, kSegment = 32;
  using Kind = std::tuple<Seen, std::size_t, std::uint64_t>;
  struct Lane {
    unsigned meetings = 0, intervals = 0;
    std::map<Kind, unsigned> seen;  // since the last meeting
  };
  struct Access {
    std::array<std::uint64_t, kLanes> addresses{};
    std::uint32_t lanes = 0;
    unsigned interval = 0;
  };

  unsigned first_open() const {
    const auto fewer = [](const Lane& a, const Lane& b) { return a.meetings < b.meetings; };
    return std::min_element(lanes_.begin(), lanes_.end(), fewer)->meetings;
  }
  void count_until(unsigned meeting) {
    while (!accesses_.empty() && std::get<0>(accesses_.begin()->first) < meeting) {
      const Kind& kind = std::get<1>(accesses_.begin()->first);
      count(std::get<0>(kind), std::get<1>(kind), accesses_.begin()->second);
      accesses_.erase(accesses_.begin());
    }
  }
  void count(Seen what, std::size_t size, const Access& access) {
    ++counters_.operations, ++operations_[access.interval];
    if (what == Seen::kSharedRead || what == Seen::kSharedWrite) {
      counters_.wavefronts += wavefronts(size, all_of(access));
    } else if (what == Seen::kSent || what == Seen::kGlobalWrite || what == Seen::kGlobalRead) {
      std::set<std::uint64_t> segments;
      each_lane(access, 0, kLanes, [&](std::uint64_t address) {
        if (address != kNowhere) segments.insert(address / kSegment);
      });
      (what == Seen::kGlobalRead ? counters_.segments_read : counters_.segments_sent) +=
          std::int64_t(segments.size());
    }
    if (what == Seen::kSent) counters_.arrivals += arrivals(size, access);
  }
  // Of the lanes; none of one that takes no part.
  using Addresses = std::vector<std::optional<std::uint64_t>>;
  static Addresses all_of(const Access& access) {
    Addresses addresses(kLanes);
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (access.lanes >> lane & 1) addresses[lane] = access.addresses[lane];
    }
    return addresses;
  }
  static std::int64_t arrivals(std::size_t size, const Access& access) {
    std::map<std::uint64_t, Addresses> blocks;
    each_lane(access, 0, kLanes, [&](std::uint64_t address) {
      if (address != kNowhere) blocks[address >> kBlockBits].push_back(address);
    });
    std::int64_t sum = 0;
    for (const auto& [block, addresses] : blocks) sum += wavefronts(size, addresses);
    return sum;
  }
  static std::int64_t wavefronts(std::size_t size, const Addresses& addresses) {
    const std::size_t together = size <= kWord ? kLanes : kLanes * kWord / size;
    std::int64_t sum = 0;
    for (std::size_t first = 0; first < addresses.size(); first += together) {
      std::array<std::set<std::uint64_t>, kBanks> words;
      for (std::size_t n = first; n < std::min(first + together, addresses.size()); ++n) {
        if (!addresses[n]) continue;
        const std::uint64_t end = (*addresses[n] + size - 1) / kWord;
        for (std::uint64_t word = *addresses[n] / kWord; word <= end; ++word) {
          words[word % kBanks].insert(word);
        }
      }
      std::size_t most = 0;
      for (const auto& bank : words) most = std::max(most, bank.size());
      sum += std::int64_t(most);
    }
    return sum;
  }
  template <class F>
  static void each_lane(const Access& access, unsigned first, unsigned end, const F& f) {
    for (unsigned lane = first; lane < end; ++lane) {
      if (access.lanes >> lane & 1) f(access.addresses[lane]);
    }
  }

  std::array<Lane, kLanes> lanes_;
  // By meeting, kind and number.
  std::map<std::tuple<unsigned, Kind, unsigned>, Access> accesses_;
  Counters counters_;
  std::map<unsigned, std::int64_t> operations_;  // by interval
};

// What the warps of a block have done, added to `sum`.
inline void add_block(Counters& sum, std::vector<WarpCounts>& warps) {
  std::map<unsigned, std::pair<int, std::int64_t>> intervals;  // warps with operations, and these
  for (WarpCounts& warp : warps) {
    warp.close();
    const Counters& c = warp.counters();
    sum.wavefronts += c.wavefronts, sum.operations += c.operations;
    sum.segments_sent += c.segments_sent, sum.segments_read += c.segments_read;
    sum.arrivals += c.arrivals;
    for (const auto& [interval, count] : warp.operations()) {
      ++intervals[interval].first, intervals[interval].second += count;
    }
  }
  for (const auto& [interval, work] : intervals) {
    if (work.first == 1) sum.single_warp += work.second;
  }
}

}  // namespace simt
