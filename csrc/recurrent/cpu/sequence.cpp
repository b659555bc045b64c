#include "recurrent/cpu/sequence.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <numeric>

#include "cpu/instruction_set.h"
#include "cpu/memory.h"
#include "cpu/team.h"
#include "recurrent/cpu/packs.h"

namespace fastcells::cpu {
namespace {

thread_local Workspace workspace;

// How long a thread waits awake for the others of a step: as long as the step takes, for a wake-up
// costs 50 us; hardly at all where there are more threads than cores.
int patience_of(const Plan& plan) {
  constexpr double kSecondsPerTurn = 18e-9;
  constexpr int kLeast = 64, kMost = 60000;
  static const int cores = omp_get_num_procs();
  if (plan.threads() > cores) return kLeast;
  return std::clamp(int(plan.step_seconds / kSecondsPerTurn), kPatience, kMost);
}

}  // namespace

const CellKernels* find_kernels(const CellFacts& cell, Storage storage, WeightStorage weights,
                                const LayerSizes& sizes, bool is_projected, std::string& why) {
  if (is_projected || cell.two_products) return why = "a second product in a step", nullptr;
  if (sizes.T * sizes.B * sizes.H == 0) return why = "there is nothing to compute", nullptr;
  return find_kernels(int(cell.kind), storage, weights);
}

Plan plan_layer(const CellKernels& kernels, const CellFacts& cell, Storage storage,
                const LayerSizes& s, bool is_training) {
  const int bytes = storage == Storage::kFloat64 ? sizeof(double) : sizeof(float);
  return cpu::plan({cell.gates, int(s.D), bytes, kernels.panel_units, s.T, s.B, s.I, s.H,
                    is_training, kernels.narrowness, kernels.terms, kernels.barriers},
                   {available_threads(), kernels.lanes, cache_bytes()});
}

Grid::Grid(const Layer& layer, const CellKernels& kernels, bool is_training)
    : plan_(plan_layer(kernels, layer.cell, layer.storage, layer.sizes, is_training)),
      directions_(layer.sizes.D),
      steps_(layer.sizes.T),
      lanes_(kernels.lanes) {
  list_rows(layer);
}

// Rows sorted by falling length and dealt out in turn, so that the groups have equal work; without
// lengths in their order, each group a range.
void Grid::list_rows(const Layer& layer) {
  const auto& s = layer.sizes;
  const int count = plan_.row_groups;
  const std::int64_t* lengths =
      layer.lengths.defined() ? layer.lengths.const_data_ptr<std::int64_t>() : nullptr;
  std::vector<std::int32_t> sorted(s.B);
  std::iota(sorted.begin(), sorted.end(), 0);
  if (lengths) {
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int a, int b) { return lengths[a] > lengths[b]; });
  }
  order_.reserve(s.B);
  groups_.resize(count);
  for (int g = 0; g < count; ++g) {
    groups_[g].first = std::int64_t(order_.size());
    if (lengths) {
      for (std::int64_t i = g; i < s.B; i += count) order_.push_back(sorted[i]);
    } else {
      for (std::int64_t i = s.B * g / count; i < s.B * (g + 1) / count; ++i) order_.push_back(i);
    }
    groups_[g].rows = std::int64_t(order_.size()) - groups_[g].first;
  }
  active_.resize(count * s.T);
  for (int g = 0; g < count; ++g) {
    RowGroup& group = groups_[g];
    group.order = order_.data() + group.first;
    group.active = active_.data() + g * s.T;
    std::int64_t n = group.rows;
    for (std::int64_t t = 0; t < s.T; ++t) {
      while (lengths && n > 0 && lengths[group.order[n - 1]] <= t) --n;
      active_[g * s.T + t] = std::int32_t(n);
      frames_ += n;
    }
  }
}

std::int64_t Grid::padded_units(std::int64_t columns) const {
  return (columns + 2 * lanes_ - 1) / (2 * lanes_) * 2 * lanes_;
}

std::int64_t Grid::most_rows() const {
  std::int64_t most = 0;
  for (const RowGroup& group : groups_) most = std::max(most, group.rows);
  return most;
}

LayerArgs Grid::arguments(const Layer& layer, std::int64_t d) const {
  const auto& s = layer.sizes;
  const Rows rows = layer.rows(d);
  LayerArgs args{};
  args.T = s.T, args.B = s.B, args.I = s.I, args.H = s.H;
  args.P = s.P;
  args.padded_H = padded_units(s.H), args.padded_P = padded_units(s.P);
  args.reverse = rows.reverse;
  args.input = pointer(layer.input);
  args.h_0 = pointer(layer.h_0, d * s.B * s.P), args.c_0 = pointer(layer.c_0, d * s.B * s.c());
  args.lengths = rows.lengths, args.resets = rows.resets;
  args.output_stride = s.D * s.P, args.cells_stride = s.D * s.c();
  args.saved_stride = s.saved * s.H;
  return args;
}

Place Grid::place(int thread, std::vector<Barrier>& teams, std::vector<Barrier>& groups,
                  char* scratch) {
  const int team = thread / plan_.team_threads(), rank = thread % plan_.team_threads();
  const int group = rank / plan_.unit_threads;
  return {groups_.data(),
          plan_.row_groups,
          group,
          rank % plan_.unit_threads,
          plan_.unit_threads,
          rank,
          plan_.team_threads(),
          &groups[team * plan_.row_groups + group],
          &teams[team],
          scratch};
}

void Grid::run(std::size_t bytes, const std::function<void(int, const Place&)>& body) {
  std::vector<Barrier> teams(plan_.direction_teams);
  std::vector<Barrier> groups(plan_.direction_teams * plan_.row_groups);
  const int patience = patience_of(plan_);
  for (Barrier& barrier : teams) barrier.threads = plan_.team_threads();
  for (Barrier& barrier : groups) barrier.threads = plan_.unit_threads;
  for (auto* barriers : {&teams, &groups}) {
    for (Barrier& barrier : *barriers) barrier.patience = patience;
  }
  char* const scratch = workspace.at_least(bytes * plan_.threads());
  run_team(plan_.threads(), [&](int thread) {
    const Place own = place(thread, teams, groups, scratch + bytes * thread);
    const std::int64_t first = thread / plan_.team_threads();
    for (std::int64_t d = first; d < directions_; d += plan_.direction_teams) body(int(d), own);
  });
  workspace.trim();
}

bool Grid::is_better_alone() const {
  const int threads = plan_.threads();
  if (threads == 1 || plan_.unit_threads > kMostAlone) return false;
  return threads_now(threads, plan_.step_seconds * double(steps_ * threads)) == 1;
}

void Grid::run_alone(std::size_t bytes, const std::function<void(int, const Place*, int)>& body) {
  std::vector<Barrier> alone(1);
  std::vector<Barrier> groups(plan_.row_groups);
  char* const scratch = workspace.at_least(bytes * plan_.team_threads());
  std::vector<Place> places;
  for (int rank = 0; rank < plan_.team_threads(); ++rank) {
    places.push_back(place(rank, alone, groups, scratch + bytes * rank));
  }
  run_team(1, [&](int) {
    for (std::int64_t d = 0; d < directions_; ++d) {
      for (int group = 0; group < plan_.row_groups; ++group) {
        body(int(d), places.data() + group * plan_.unit_threads, plan_.unit_threads);
      }
    }
  });
  workspace.trim();
}

}  // namespace fastcells::cpu
