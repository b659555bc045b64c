// Plain memory of kernels: aligned, and scratch that a thread keeps from call to call.
#pragma once
#include <cstddef>
#include <memory>

namespace fastcells::cpu {

// Memory at a cache line's start, not initialised.
struct FreeMemory {
  void operator()(void* p) const;
};
using Memory = std::unique_ptr<void, FreeMemory>;
Memory allocate(std::size_t bytes);

// Memory that is about to be written for the first time had better come in pages of 2 MiB, where
// the system gives them to who asks: a page of 4 KiB takes longer to come than to be written. Does
// nothing to less memory than that.
void prefer_large_pages(void* memory, std::size_t bytes);

// Scratch memory that a calling thread keeps for its next call, up to a size: new pages cost more
// than a small call.
class Workspace {
 public:
  char* at_least(std::size_t bytes) {
    if (bytes > size_) memory_ = allocate(bytes), size_ = bytes;
    return static_cast<char*>(memory_.get());
  }
  void trim() {
    constexpr std::size_t kKept = 8 << 20;
    if (size_ > kKept) memory_.reset(), size_ = 0;
  }

 private:
  Memory memory_;
  std::size_t size_ = 0;
};

}  // namespace fastcells::cpu
