// How a layer of an elementwise cell is dealt out: blocks of rows, chunks of steps, threads. A pure
// function. Torch-free.
#pragma once
#include <cstdint>
#include <string>

namespace fastcells::elementwise {

struct Problem {
  int gates, directions, bytes;  // of an element of the arithmetic
  int panel_units, panel_vectors, lanes;
  std::int64_t T, B, I, H;
  bool is_training;
};

struct Plan {
  std::int64_t block_rows;     // rows of a product
  std::int64_t forward_steps;  // of a chunk
  std::int64_t backward_steps;
  int unit_threads, row_threads;
  double seconds_alone;  // of one direction's pass, by one thread

  int threads() const { return unit_threads * row_threads; }
};

// Blocks and chunks follow from the problem and the cache, not from the number of threads: the
// results are the same bits on any number.
Plan plan(const Problem& problem, int threads, std::int64_t cache_bytes);
std::string describe(const Plan& plan);

}  // namespace fastcells::elementwise
