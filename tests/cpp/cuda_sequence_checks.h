// What the tests of the CUDA sequence kernels share: buffers of storage, sizes of a launch, errors.
#pragma once
#define FASTCELLS_EMULATED
#include <cuda_runtime.h>

#include <cstdio>

#include "cuda/plan.h"
#include "dispatch.h"
#include "sequence_problem.h"

namespace fastcells {

struct Launch {
  int warps, blocks;  // of a block, of a cluster
  unsigned seed;
};

// The kernel on all rows of `args`, with the shared memory that its layout asks for.
template <class Kernel, class Args>
void run_emulated(const Launch& launch, int tiles, int columns, int batch_tiles, int cached,
                  Kernel kernel, const Args& args) {
  const auto shared = cuda::SequenceShared::of(launch.warps, tiles, columns, batch_tiles, cached);
  const int rows = batch_tiles * cuda::kTileRows;
  const unsigned slices = unsigned((args.B + rows - 1) / rows);
  simt::launch({slices * unsigned(launch.blocks)}, unsigned(launch.warps * cuda::kWarpLanes),
               std::size_t(shared.end), {launch.seed, unsigned(launch.blocks)}, kernel, args);
}

template <class T>
double rounded(double x) {
  return double(float(T(float(x))));
}
inline double as_float(double x) { return double(float(x)); }

template <class T>
std::vector<T> stored(const Values& values) {
  std::vector<T> result;
  for (const double value : values) result.push_back(T(float(value)));
  return result;
}
// Not yet written: NaN.
template <class T>
std::vector<T> unwritten(std::int64_t count) {
  return std::vector<T>(std::size_t(count), T(NAN));
}
template <class T>
T* address(std::vector<T>& buffer) {
  return buffer.empty() ? nullptr : buffer.data();
}

// Largest difference, over 1 + the expected size; infinite where it is not a number.
template <class T>
double worst(const std::vector<T>& got, const Values& expected) {
  double error = got.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < expected.size() && i < got.size(); ++i) {
    const double difference =
        std::fabs(double(got[i]) - expected[i]) / (1 + std::fabs(expected[i]));
    if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
  }
  return error;
}

template <class Cell, class T>
bool report(const Case& c, const Launch& launch, int cached, double error, double tolerance) {
  const bool is_ok = error <= tolerance;
  std::printf("%-11s %s T%d B%d H%d%s%s%s, %d warps, %d blocks, %d cached: %.1e%s\n", Cell::kName,
              std::is_same_v<T, __half> ? "float16 " : "bfloat16", int(c.T), int(c.B), int(c.H),
              c.reverse ? " reverse" : "", c.lengths ? " lengths" : "", c.resets ? " resets" : "",
              launch.warps, launch.blocks, cached, error, is_ok ? "" : "  FAILED");
  return is_ok;
}

// check.operator()<Cell, T>() for every cell of one product and both types of 16 bits.
template <class Check>
bool check_all(const Check& check) {
  bool ok = true;
  for_each_cell([&](auto cell, CellKind) {
    using Cell = typename decltype(cell)::type;
    if constexpr (!Cell::kTwoProducts) {
      ok &= check.template operator()<Cell, __half>();
      ok &= check.template operator()<Cell, __nv_bfloat16>();
    }
  });
  return ok;
}

}  // namespace fastcells
