// What the scan engine of the CPU asks of an instruction set: tasks and a table of functions. No
// function is defined here, so that none is compiled for two instruction sets. Torch-free.
//
// Here everything is counted in parts, of which a complex number has two: H, the strides of an
// operand, and lanes. An operand's unit is 1, or 0 where one number stands for all units; a result
// and h_0 have no gaps between units.
#pragma once
#include <cstdint>

#include "scan/args.h"

namespace fastcells::cpu {

// Steps of some lanes of a batch row, in the order in which they are processed: those of the scan,
// or, on the way back, the other way round. Tasks of different lanes write different memory.
struct ScanTask {
  std::int64_t row;
  std::int64_t first_lane, last_lane;
  std::int64_t begin, end;  // in 0 .. T
  void* scratch;            // A [2 lanes], where rows lie side by side; of all steps then
};

// State and product are A [lanes] of the task. The state goes from step to step: h, or on the way
// back conj(a) g. It is read unless the task holds the first step of its row.
struct ScanKernels {
  // Leaves the state behind its last step.
  void (*forward)(const ScanForwardArgs&, const ScanTask&, void* state);
  // `sums` is A [2 lanes] scratch where d_a_sums are asked for: they are added up over the tasks of
  // the same lanes, from zeros, and written by the one that ends with T.
  void (*backward)(const ScanBackwardArgs&, const ScanTask&, void* state, void* sums);
  // The state behind the task from a state of zero, and the product of its factors; nothing else is
  // written. False where what comes in does not reach the end.
  bool (*forward_summary)(const ScanForwardArgs&, const ScanTask&, void* state, void* product);
  bool (*backward_summary)(const ScanBackwardArgs&, const ScanTask&, void* state, void* product);
  // Whether each number of a summary is finite.
  bool (*is_finite)(std::int64_t lanes, const void* state, const void* product);
  // state += product before
  void (*combine)(std::int64_t lanes, const void* product, const void* before, void* state);
  std::int64_t vector_lanes;
  std::int64_t lane_bytes;  // of A
};

// The kernels of one instruction set.
using FindScan = const ScanKernels*(ScanStorage storage);
FindScan baseline_scan, avx2_scan, avx512_scan;

}  // namespace fastcells::cpu
