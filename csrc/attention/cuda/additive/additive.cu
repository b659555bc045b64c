// Launchers of additive attention.
#include "attention/cuda/additive/calls.cuh"
#include "cuda/storage.cuh"

namespace fastcells::cuda {
namespace {

// Launches on a stream, and keeps the first error.
struct StreamRun {
  void* stream;
  cudaError_t* error;

  template <class Args>
  void operator()(std::int64_t blocks, int shared_bytes, void (*kernel)(Args),
                  const Args& args) const {
    if (*error != cudaSuccess || blocks == 0) return;
    kernel<<<static_cast<unsigned>(blocks), additive::kThreads, shared_bytes,
             static_cast<cudaStream_t>(stream)>>>(args);
    *error = cudaGetLastError();
  }
};

// f(TypeTag<T>, run)
template <class F>
int dispatch(Storage storage, void* stream, const F& f) {
  cudaError_t error = cudaSuccess;
  const StreamRun run{stream, &error};
  dispatch_float_storage<Cuda>(storage, [&](auto type) { f(type, run); });
  return error;
}

}  // namespace

int launch_additive_forward(Storage storage, const AdditiveForwardArgs& args, void* stream) {
  return dispatch(storage, stream, [&](auto type, const auto& run) {
    additive::run_forward<typename decltype(type)::type>(args, run);
  });
}

int launch_additive_backward(Storage storage, const AdditiveBackwardArgs& args, void* stream) {
  return dispatch(storage, stream, [&](auto type, const auto& run) {
    additive::run_backward<typename decltype(type)::type>(args, run);
  });
}

}  // namespace fastcells::cuda
