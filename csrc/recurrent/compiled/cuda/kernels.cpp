#include "recurrent/compiled/cuda/kernels.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "recurrent/cuda/grid.h"

namespace fastcells::compiled {

#if CUDART_VERSION >= 12080  // the first with libraries that are loaded at run time
namespace {

struct Kernels {
  cudaKernel_t forward, backward;
};
using Key = std::tuple<CellKind, Storage, int>;  // int: compute capability
std::mutex mutex;
std::map<Key, Kernels>& loaded() {
  static auto* const all = new std::map<Key, Kernels>;  // lives as long as the process
  return *all;
}

int current_compute() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor;
}
std::optional<Kernels> find_kernels(CellKind kind, Storage storage) {
  const Key key{kind, storage, current_compute()};
  const std::lock_guard lock(mutex);
  const auto found = loaded().find(key);
  if (found == loaded().end()) return std::nullopt;
  return found->second;
}

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is told here, not by whoever asks next
  throw std::invalid_argument(std::string("fastcells: ") + what + ": " + cudaGetErrorString(error));
}

template <class Args>
int launch_on(std::optional<Kernels> kernels, bool is_backward, Grid grid, const Args& args,
              void* stream) {
  if (!kernels) return cudaErrorInvalidDeviceFunction;
  if (grid.blocks == 0) return cudaSuccess;
  void* pointers[] = {const_cast<Args*>(&args)};
  return cudaLaunchKernel(
      reinterpret_cast<const void*>(is_backward ? kernels->backward : kernels->forward),
      dim3(grid.blocks), dim3(grid.threads), pointers, grid.shared_bytes,
      static_cast<cudaStream_t>(stream));
}

}  // namespace

void take_image(CellKind kind, Storage storage, int compute, const std::string& image) {
  cudaLibrary_t library;
  require(cudaLibraryLoadData(&library, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
          "the kernels of a cell cannot be loaded");
  Kernels kernels;
  require(cudaLibraryGetKernel(&kernels.forward, library, "own_forward_kernel"),
          "the kernels of a cell lack the forward pass");
  require(cudaLibraryGetKernel(&kernels.backward, library, "own_backward_kernel"),
          "the kernels of a cell lack the backward pass");
  const std::lock_guard lock(mutex);
  loaded()[{kind, storage, compute}] = kernels;
}
bool has_image(CellKind kind, Storage storage) { return find_kernels(kind, storage).has_value(); }

int launch(CellKind kind, Storage storage, const StepForwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), false, grid_of_steps(a.rows.B * a.H), a, stream);
}
int launch(CellKind kind, Storage storage, const StepBackwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), true, grid_of_steps(a.rows.B * a.H), a, stream);
}
int launch(CellKind kind, Storage storage, const LaneForwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), false, grid_of_lanes(a.rows.B * a.H), a, stream);
}
int launch(CellKind kind, Storage storage, const LaneBackwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), true, grid_of_lanes(a.rows.B * a.H), a, stream);
}
int launch(CellKind kind, Storage storage, const RowForwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), false, grid_of_rows(a.rows.B, a.H), a, stream);
}
int launch(CellKind kind, Storage storage, const RowBackwardArgs& a, void* stream) {
  return launch_on(find_kernels(kind, storage), true, grid_of_rows(a.rows.B, a.H), a, stream);
}

#else

void take_image(CellKind, Storage, int, const std::string&) {
  throw std::invalid_argument(
      "fastcells: the kernels of a cell from equations need a torch of CUDA 12.8 or newer");
}
bool has_image(CellKind, Storage) { return false; }
int launch(CellKind, Storage, const StepForwardArgs&, void*) { return cudaErrorNotSupported; }
int launch(CellKind, Storage, const StepBackwardArgs&, void*) { return cudaErrorNotSupported; }
int launch(CellKind, Storage, const LaneForwardArgs&, void*) { return cudaErrorNotSupported; }
int launch(CellKind, Storage, const LaneBackwardArgs&, void*) { return cudaErrorNotSupported; }
int launch(CellKind, Storage, const RowForwardArgs&, void*) { return cudaErrorNotSupported; }
int launch(CellKind, Storage, const RowBackwardArgs&, void*) { return cudaErrorNotSupported; }

#endif

}  // namespace fastcells::compiled
