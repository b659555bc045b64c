// Which grid of threads the CPU engine gives to which layer (recurrent/cpu/plan.h): pure, so
// nothing runs.
//
// The table has cases that any sensible figures of a machine decide alike; what lies between them
// is the model's to say, and is held to the bounds that the kernels rely on.
#include "recurrent/cpu/plan.cpp"

#include <cstdio>
#include <string>

using namespace fastcells::cpu;

namespace {

constexpr std::int64_t kCache = 1 << 20;
constexpr int kLanes = 8;

int failed = 0;
void expect(bool is_true, const std::string& what) {
  if (is_true) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failed;
}

Problem lstm(std::int64_t T, std::int64_t B, std::int64_t H, int directions = 1) {
  return {4, directions, sizeof(float), kLanes, T, B, H, H, true};
}
std::string grid_of(const Plan& p) {
  return std::to_string(p.direction_teams) + " teams, " + std::to_string(p.row_groups) +
         " groups, " + std::to_string(p.unit_threads) + " unit threads";
}

struct Row {
  const char* what;
  Problem problem;
  int threads;
  int teams, groups, units;  // expected
};

void check_table() {
  const Row rows[] = {
      {"one thread is all there is", lstm(100, 64, 512, 2), 1, 1, 1, 1},
      {"a small step is over before a second thread has noticed", lstm(100, 1, 16), 2, 1, 1, 1},
      {"nor do eight help it", lstm(100, 1, 16), 8, 1, 1, 1},
      {"a short call is over before a second thread is awake", lstm(1, 2, 16), 2, 1, 1, 1},
      {"one row and many weights: each keeps half of the weights", lstm(100, 1, 1024), 2, 1, 1, 2},
      {"and eight an eighth", lstm(100, 1, 2048), 8, 1, 1, 8},
      {"many rows and few weights: no barriers", lstm(100, 512, 32), 2, 1, 2, 1},
      {"and none for sixteen", lstm(100, 512, 32), 16, 1, 16, 1},
      {"two directions on two threads need no barrier", lstm(100, 1, 1024, 2), 2, 2, 1, 1},
      {"nor with two rows", lstm(100, 2, 128, 2), 2, 2, 1, 1},
      {"a thread of three has no share in one row of one panel", lstm(100, 1, 8, 1), 3, 1, 1, 1},
  };
  for (const Row& row : rows) {
    const Plan p = plan(row.problem, {row.threads, kLanes, kCache});
    const bool is_expected =
        p.direction_teams == row.teams && p.row_groups == row.groups && p.unit_threads == row.units;
    expect(is_expected, std::string(row.what) + ": got " + grid_of(p));
  }
}

// What the kernels and their buffers rely on.
void check_bounds(const Problem& p, const Machine& m, const Plan& got) {
  const std::int64_t panels = (p.H + p.panel_units - 1) / p.panel_units;
  const std::int64_t rows = (p.B + got.row_groups - 1) / got.row_groups;
  const auto check = [&](bool is_true, const char* bound) {
    if (is_true) return;
    expect(false, std::string(bound) + ": T" + std::to_string(p.T) + " B" + std::to_string(p.B) +
                      " H" + std::to_string(p.H) + " with " + std::to_string(m.threads) +
                      " threads: " + grid_of(got) + ", " + describe(got, true));
  };
  check(got.direction_teams >= 1 && got.row_groups >= 1 && got.unit_threads >= 1, "none is empty");
  check(got.team_threads() == got.row_groups * got.unit_threads, "a team's threads");
  check(got.threads() == got.direction_teams * got.team_threads(), "all threads");
  check(got.threads() <= m.threads, "no more threads than there are");
  check(got.direction_teams <= p.directions, "a direction for each team");
  check(got.row_groups <= p.B, "a row for each group");
  check(got.unit_threads <= panels, "a panel for each unit thread");
  check(got.forward_frames >= rows, "a chunk holds a step of the largest group");
  check(got.forward_frames <= std::max(rows, p.T * rows), "no more frames than there are");
  check(got.backward_frames >= p.B, "a chunk holds a step of all rows");
  check(got.backward_frames <= std::max(p.B, p.T * p.B), "no more frames than there are, back");
  check(got.step_seconds > 0, "a step takes time");
}

void check_grid() {
  for (const std::int64_t H : {1, 7, 64, 100, 1000}) {
    for (const std::int64_t B : {1, 2, 5, 64, 1000}) {
      for (const std::int64_t T : {1, 10, 1000}) {
        for (const int directions : {1, 2}) {
          for (const int panel_units : {4, 32}) {
            Problem p = lstm(T, B, H, directions);
            p.panel_units = panel_units;
            for (const std::int64_t cache : {64 << 10, 2 << 20}) {
              double least = 0;
              for (const int threads : {1, 2, 3, 8, 16}) {
                const Machine m{threads, kLanes, cache};
                const Plan got = plan(p, m);
                check_bounds(p, m, got);
                // What fewer threads can do, more can.
                expect(least == 0 || got.step_seconds <= least, "more threads, no slower step");
                least = got.step_seconds;
              }
            }
          }
        }
      }
    }
  }
}

void check_chunks() {
  // Hidden units that make a frame of gates small, and one frame of them larger than a cache.
  const Machine m{1, kLanes, kCache};
  const Plan small = plan(lstm(1000, 1, 16), m), large = plan(lstm(1000, 1, 4096), m);
  expect(small.forward_frames > large.forward_frames, "small frames: more of them at once");
  expect(small.backward_frames > large.backward_frames, "small frames: more of them, back");
  expect(large.forward_frames >= 16, "weights are read once for many frames, however large");
  expect(large.backward_frames >= 64, "so are the gradients of the gates");
  expect(plan(lstm(3, 2, 16), m).forward_frames == 6, "a short call is one chunk");
  expect(plan(lstm(3, 2, 16), m).backward_frames == 6, "a short call is one chunk, back");
}

void check_text() {
  Plan p;
  p.forward_frames = 64, p.backward_frames = 256;
  const std::string frames = "; input product over 64 rows at once";
  const auto is_told = [&](const char* threads) {
    expect(describe(p, false) == threads + frames, "text: " + describe(p, false));
    expect(describe(p, true) == threads + frames + "; weight gradients over 256",
           "text of training: " + describe(p, true));
  };
  is_told("one thread");
  p.unit_threads = 2;
  is_told("2 threads: 2 threads that share the units, a barrier a step");
  p.row_groups = 3;
  is_told("6 threads: 3 groups of rows, each of 2 threads that share the units, a barrier a step");
  p.direction_teams = 2, p.unit_threads = 1;
  is_told("6 threads: 2 directions at once, each of 3 groups of rows");
}

}  // namespace

int main() {
  check_table();
  check_grid();
  check_chunks();
  check_text();
  std::printf("plan: %s\n", failed ? "FAILED" : "ok");
  return failed != 0;
}
