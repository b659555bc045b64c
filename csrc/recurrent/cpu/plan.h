// How the CPU engine spreads a layer over threads: pure, printable, tested without running
// anything.
//
// The threads form a grid: direction teams x row groups x unit threads. Teams and groups never wait
// for one another while time passes; the unit threads of a group share its rows, keep their own
// units' weights in their caches, and wait at a barrier a step.
#pragma once
#include <cstdint>
#include <string>

namespace fastcells::cpu {

struct Machine {
  int threads;               // that a call may use
  int lanes;                 // of a vector of the arithmetic type
  std::int64_t cache_bytes;  // second-level cache of a core
};

struct Problem {
  int gates, directions;
  int element_bytes;  // of the arithmetic type
  int panel_units;    // units that share a panel of weights
  std::int64_t T, B, I, H;
  bool is_training;       // with a way back
  double narrowness = 1;  // bytes of the arithmetic type to those of a weight in a panel
  int terms = 1;          // products that a lane sums in one instruction
  int barriers = 1;       // of a step, where threads share the units
};

struct Plan {
  int direction_teams = 1, row_groups = 1, unit_threads = 1;
  std::int64_t forward_frames = 1;   // rows of an input product: several steps at once
  std::int64_t backward_frames = 1;  // rows of the products that give a weight's gradient
  double step_seconds = 0;           // what the model expects of a step of all directions

  int team_threads() const { return row_groups * unit_threads; }
  int threads() const { return direction_teams * team_threads(); }
};

Plan plan(const Problem& problem, const Machine& machine);
// In one line: "2 threads: 2 unit threads; ..."
std::string describe(const Plan& plan, bool is_training);

}  // namespace fastcells::cpu
