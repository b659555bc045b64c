// What a Hopper card (sm_90a) gives persistent recurrent kernels to plan with: barriers and
// exchanges of a grid and of a cluster, bandwidths, products, launches. Without torch.
//
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -cudart static
//     -gencode arch=compute_90a,code=sm_90a -Icsrc -o micro benchmarks/gpu/micro.cu
//
// A line of JSON for each measurement, as soon as it is there:
//
//   name, number   what is measured, and its place in the list, from 0
//   value, unit    of one step, the median of kRounds launches; value is null where it failed
//   error          why; "timeout" of a kernel that hung
//   ...            parameters: blocks, cluster, bytes and the like
//
// --list: the names. --only NAME: those that begin so. --from N: those from that number on.
// --seconds S: all it may take.
//
// What hangs or is lost takes its process with it, so that measurements run in a child, and a new
// one goes on behind. The exit code is 3 where one hung, 4 where one was lost, 1 where another
// failed. Those that might hang come last.
#include <sys/mman.h>
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>

#include "micro_cluster.cuh"
#include "micro_facts.cuh"
#include "micro_grid.cuh"
#include "micro_harness.cuh"
#include "micro_launch.cuh"
#include "micro_memory.cuh"
#include "micro_units.cuh"

namespace fastcells::micro {
namespace {

constexpr int kWarmUpMs = 150;
constexpr int kMostProcesses = 4;

struct Options {
  bool is_list = false;
  std::string only;
  int from = 0;
  double seconds = 22;
};

bool parse(int count, char** words, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool has_value = i + 1 < count;
    if (word == "--list") {
      options.is_list = true;
    } else if (word == "--only" && has_value) {
      options.only = words[++i];
    } else if (word == "--from" && has_value) {
      options.from = std::atoi(words[++i]);
    } else if (word == "--seconds" && has_value) {
      options.seconds = std::atof(words[++i]);
    } else {
      return false;
    }
  }
  return true;
}

Suite all_measurements() {
  Suite suite;
  add_facts(suite);
  add_units(suite);
  add_memory(suite);
  add_launches(suite);
  add_peer_reads(suite);
  add_grids(suite);
  add_clusters(suite);
  suite.push_back({"clock_at_end", [](Line& line) { line.value(spin_mhz(5), "MHz"); }});
  return suite;
}

// Runs one; false where it failed.
bool measure(const Measurement& measurement, int number, bool is_late) {
  Line line(measurement.name, number);
  current_line = &line;
  bool is_ok = false;
  try {
    if (is_late) throw std::runtime_error("no time left");
    measurement.run(line);
    is_ok = true;
  } catch (const std::exception& problem) {
    line.error(problem.what());
  }
  line.print();
  current_line = nullptr;
  return is_ok;
}

// Whether a fault has taken the card from this process. That there never was one is no loss.
bool is_lost() {
  const cudaError_t error = cudaDeviceSynchronize();
  return error != cudaSuccess && error != cudaErrorNoDevice && error != cudaErrorInsufficientDriver;
}

// In a process of its own: all from `first` on. `number` tells the parent how far it came.
int run(const Suite& suite, const Options& options, int first, double end, volatile int* number) {
  // Where a call of the runtime hangs, no one looks at the time.
  alarm(unsigned(std::max(1.0, end - now() + 2)));
  try {
    spin_mhz(kWarmUpMs);
  } catch (const std::exception&) {  // every line will say why
  }
  int code = 0;
  for (int i = first; i < int(suite.size()); ++i) {
    if (suite[i].name.rfind(options.only, 0) != 0) continue;
    *number = i;
    if (measure(suite[i], i, now() > end - kTimeout)) continue;
    code = 1;
    if (is_lost()) return kLost;
  }
  return code;
}

// Runs children until one comes to the end.
int supervise(const Suite& suite, const Options& options) {
  const double end = now() + options.seconds;
  void* const shared =
      mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  volatile int* const number = static_cast<int*>(shared);
  int worst = 0;
  for (int process = 0, first = options.from; process < kMostProcesses; ++process) {
    *number = first;
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) _exit(run(suite, options, first, end, number));
    int status = 0;
    if (waitpid(child, &status, 0) != child) return 1;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : kLost;
    worst = std::max(worst, code);
    if (!WIFEXITED(status)) {
      Line line(suite[*number].name, *number);
      line.error("signal " + std::to_string(WTERMSIG(status)));
      line.print();
    }
    if (code != kHung && code != kLost) break;
    first = *number + 1;
    if (first >= int(suite.size()) || now() > end - kTimeout) break;
  }
  return worst;
}

}  // namespace
}  // namespace fastcells::micro

int main(int count, char** words) {
  using namespace fastcells::micro;
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(stderr, "micro [--list] [--only NAME] [--from N] [--seconds S]\n");
    return 2;
  }
  const Suite suite = all_measurements();
  if (options.is_list) {
    for (const Measurement& measurement : suite) std::printf("%s\n", measurement.name.c_str());
    return 0;
  }
  return supervise(suite, options);
}
