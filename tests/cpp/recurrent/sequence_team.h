// The grid of threads of one direction, on threads of the test's own or on one.
#pragma once
#include <algorithm>
#include <numeric>
#include <thread>
#include <vector>

#include "recurrent/cpu/kernels/args.h"
#include "sequence_problem.h"

namespace fastcells {

// The grid of threads of one direction, as recurrent/cpu/sequence.cpp lays it out.
class Team {
 public:
  template <class Cell>
  Team(const Problem<Cell>& p, int groups, int units) : units_(units) {
    std::vector<std::int32_t> sorted(p.c.B);
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int a, int b) { return p.length(a) > p.length(b); });
    order_.resize(groups), active_.resize(groups);
    std::int64_t first = 0;
    for (int g = 0; g < groups; ++g) {
      for (std::int64_t i = g; i < p.c.B; i += groups) order_[g].push_back(sorted[i]);
      for (std::int64_t t = 0; t < p.c.T; ++t) {
        active_[g].push_back(std::int32_t(std::count_if(order_[g].begin(), order_[g].end(),
                                                        [&](int b) { return t < p.length(b); })));
      }
      const auto rows = std::int64_t(order_[g].size());
      groups_.push_back({rows, first, order_[g].data(), active_[g].data()});
      first += rows;
    }
  }

  std::int64_t most_rows() const { return groups_[0].rows; }
  template <class Scratch, class F>
  void run(std::size_t scratch_bytes, Scratch& scratch, const F& body) const {
    const int groups = int(groups_.size()), threads = groups * units_;
    std::vector<cpu::Barrier> barriers(groups);
    for (auto& barrier : barriers) barrier.threads = units_;
    cpu::Barrier team;
    team.threads = threads;
    std::vector<std::thread> running;
    for (int rank = 0; rank < threads; ++rank) {
      const cpu::Place place{
          groups_.data(), groups,
          rank / units_,  rank % units_,
          units_,         rank,
          threads,        &barriers[rank / units_],
          &team,          scratch.template empty<char>(std::int64_t(scratch_bytes))};
      if (rank == threads - 1) {
        body(place);
      } else {
        running.emplace_back(body, place);
      }
    }
    for (auto& thread : running) thread.join();
  }
  // body(places of a group, how many) for each group, on this thread.
  template <class Scratch, class F>
  void run_alone(std::size_t scratch_bytes, Scratch& scratch, const F& body) const {
    const int groups = int(groups_.size());
    cpu::Barrier alone;
    for (int g = 0; g < groups; ++g) {
      std::vector<cpu::Place> places;
      for (int u = 0; u < units_; ++u) {
        places.push_back({groups_.data(), groups, g, u, units_, g * units_ + u, groups * units_,
                          &alone, &alone,
                          scratch.template empty<char>(std::int64_t(scratch_bytes))});
      }
      body(places.data(), units_);
    }
  }

 private:
  int units_;
  std::vector<std::vector<std::int32_t>> order_, active_;
  std::vector<cpu::RowGroup> groups_;
};

}  // namespace fastcells
