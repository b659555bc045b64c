#include "recurrent/compiled/cuda/kernels.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <tuple>

namespace fastcells::compiled {

#if CUDART_VERSION >= 12080  // the first with libraries that are loaded at run time
namespace {

struct Kernels {
  cudaKernel_t forward, backward;
};
using Key = std::tuple<CellKind, Storage, int>;  // int: compute capability
std::mutex loading;
std::map<Key, Kernels>& loaded() {
  static auto* const all = new std::map<Key, Kernels>;  // lives as long as the process
  return *all;
}

// Asked at every launch: a thread remembers that of its device.
int current_compute() {
  thread_local int known = -1, compute = 0;
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  if (device == known) return compute;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  known = device;
  return compute = 10 * major + minor;
}
std::optional<Kernels> find_kernels(CellKind kind, Storage storage) {
  const Key key{kind, storage, current_compute()};
  const std::lock_guard lock(loading);
  const auto found = loaded().find(key);
  if (found == loaded().end()) return std::nullopt;
  return found->second;
}

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is told here, not by whoever asks next
  throw std::invalid_argument(std::string("fastcells: ") + what + ": " + cudaGetErrorString(error));
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
  const std::lock_guard lock(loading);
  loaded()[{kind, storage, compute}] = kernels;
}
bool has_image(CellKind kind, Storage storage) { return find_kernels(kind, storage).has_value(); }

int launch_kernel(CellKind kind, Storage storage, Way way, Grid grid, const void* args,
                  void* stream) {
  const std::optional<Kernels> kernels = find_kernels(kind, storage);
  if (!kernels) return cudaErrorInvalidDeviceFunction;
  if (grid.blocks == 0) return cudaSuccess;
  void* pointers[] = {const_cast<void*>(args)};
  const cudaKernel_t kernel = way == Way::kForward ? kernels->forward : kernels->backward;
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(grid.blocks),
                          dim3(grid.threads), pointers, grid.shared_bytes,
                          static_cast<cudaStream_t>(stream));
}

#else

void take_image(CellKind, Storage, int, const std::string&) {
  throw std::invalid_argument(
      "fastcells: the kernels of a cell from equations need a torch of CUDA 12.8 or newer");
}
bool has_image(CellKind, Storage) { return false; }
int launch_kernel(CellKind, Storage, Way, Grid, const void*, void*) {
  return cudaErrorNotSupported;
}

#endif

}  // namespace fastcells::compiled
