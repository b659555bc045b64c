// The launcher of the scan's kernels backward.
#include "scan/cuda/backward.cuh"
#include "scan/cuda/stream.cuh"

namespace fastcells::cuda {

int launch_scan_backward(ScanStorage storage, const ScanBackwardArgs& args,
                         const ScanChunks& chunks, void* stream) {
  cudaError_t error = cudaSuccess;
  dispatch_numbers(storage, [&](auto number) {
    using N = typename decltype(number)::type;
    error = run_scan<N>(args, chunks, scan_backward_kernel<N, false>, scan_backward_kernel<N, true>,
                        ScanStream{stream});
  });
  return error;
}

}  // namespace fastcells::cuda
