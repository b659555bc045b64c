// The launcher of the scan's kernels forward.
#include "scan/cuda/forward.cuh"
#include "scan/cuda/stream.cuh"

namespace fastcells::cuda {

int launch_scan_forward(ScanStorage storage, const ScanForwardArgs& args, const ScanChunks& chunks,
                        void* stream) {
  cudaError_t error = cudaSuccess;
  dispatch_numbers(storage, [&](auto number) {
    using N = typename decltype(number)::type;
    error = run_scan<N>(args, chunks, scan_forward_kernel<N, false>, scan_forward_kernel<N, true>,
                        ScanStream{stream});
  });
  return error;
}

}  // namespace fastcells::cuda
