// A number that differs where one of several structs has another size: it tells what was compiled
// against other headers. Torch-free, and without a header of its own, for NVRTC.
#pragma once

namespace fastcells::compiled {

template <class... Struct>
constexpr unsigned long long combined_sizes() {
  unsigned long long all = 0xcbf29ce484222325;  // FNV-1a
  ((all = (all ^ sizeof(Struct)) * 0x100000001b3), ...);
  return all;
}

}  // namespace fastcells::compiled
