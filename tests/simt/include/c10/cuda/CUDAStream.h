// Stand-in of torch's header under the emulator, which knows one stream.
#pragma once

namespace c10::cuda {

struct CUDAStream {
  void* stream() const { return nullptr; }
};
inline CUDAStream getCurrentCUDAStream() { return {}; }

}  // namespace c10::cuda
