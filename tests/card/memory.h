// Every buffer of a program, so that a kernel's arguments can be taken to a card: whatever `new`
// has given is known by its address.
//
// A buffer travels as a copy between guards: bytes of ones, which is NaN in every format, in front
// and behind, that must be ones afterwards. The copy has the alignment of the original.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace simt {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace simt

namespace card {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw simt::Fault(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

// By malloc: the registry of what `new` gives cannot come from `new`.
template <class T>
struct Malloc {
  using value_type = T;
  Malloc() = default;
  template <class U>
  Malloc(const Malloc<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(std::malloc(count * sizeof(T))); }
  void deallocate(T* p, std::size_t) { std::free(p); }
  bool operator==(const Malloc&) const { return true; }
};

struct Registry {
  using Sizes = std::map<std::uintptr_t, std::size_t, std::less<>,
                         Malloc<std::pair<const std::uintptr_t, std::size_t>>>;
  std::mutex mutex;
  Sizes sizes;
};
inline Registry& registry() {  // never destroyed: `delete` is called to the very end
  static Registry& registry = *new (std::malloc(sizeof(Registry))) Registry();
  return registry;
}

inline void* take(std::size_t bytes) {
  void* const p = std::malloc(bytes + 1);  // a pointer past the end is this buffer's own
  if (!p) throw std::bad_alloc();
  const std::lock_guard lock(registry().mutex);
  registry().sizes[reinterpret_cast<std::uintptr_t>(p)] = bytes;
  return p;
}
inline void give(void* p) {
  if (!p) return;
  {
    const std::lock_guard lock(registry().mutex);
    registry().sizes.erase(reinterpret_cast<std::uintptr_t>(p));
  }
  std::free(p);
}

// A buffer of the host and its copy on the card.
class Copy {
 public:
  Copy(std::uintptr_t host, std::size_t bytes) : host_(host), bytes_(bytes) {
    front_ = kGuard + host % kGuard;
    check(cudaMalloc(&base_, total()), "cudaMalloc");
    check(cudaMemset(base_, 0xff, total()), "cudaMemset");
    check(cudaMemcpy(data(), pointer(), bytes_, cudaMemcpyHostToDevice), "a copy to the card");
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  ~Copy() { cudaFree(base_); }

  std::uintptr_t device() const { return reinterpret_cast<std::uintptr_t>(base_) + front_; }
  // Back to the host; what the guards say, or empty.
  std::string fetch() const {
    std::vector<unsigned char> all(total());
    check(cudaMemcpy(all.data(), base_, total(), cudaMemcpyDeviceToHost), "a copy to the host");
    std::memcpy(pointer(), all.data() + front_, bytes_);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool is_guard = i < front_ || i >= front_ + bytes_;
      if (is_guard && all[i] != 0xff) {
        return "byte " + std::to_string(std::int64_t(i) - std::int64_t(front_)) +
               " of a buffer of " + std::to_string(bytes_) + " was written";
      }
    }
    return "";
  }

 private:
  static constexpr std::size_t kGuard = 4096;
  std::size_t total() const { return front_ + bytes_ + kGuard; }
  void* pointer() const { return reinterpret_cast<void*>(host_); }
  void* data() const { return static_cast<unsigned char*>(base_) + front_; }

  std::uintptr_t host_;
  std::size_t bytes_, front_ = 0;
  void* base_ = nullptr;
};

// The buffers that one launch is given: argument by argument, every word that is the address of a
// buffer becomes the address of its copy.
class Copies {
 public:
  template <class Args>
  Args translate(Args args) {
    static_assert(std::is_trivially_copyable_v<Args>);
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(&args);
    for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= sizeof(Args); at += alignof(void*)) {
      std::uintptr_t word;
      std::memcpy(&word, bytes + at, sizeof word);
      word = translated(word);
      std::memcpy(bytes + at, &word, sizeof word);
    }
    return args;
  }
  // After the kernel: everything back.
  void fetch() const {
    std::string wrong;
    for (const auto& [host, copy] : copies_) {
      const std::string guards = copy.fetch();
      if (wrong.empty()) wrong = guards;
    }
    if (!wrong.empty()) throw simt::Fault("outside a buffer: " + wrong);
  }

 private:
  std::uintptr_t translated(std::uintptr_t word) {
    refuse_the_stack(word);
    std::uintptr_t host = 0;
    std::size_t bytes = 0;
    {
      const std::lock_guard lock(registry().mutex);
      const auto& sizes = registry().sizes;
      auto found = sizes.upper_bound(word);
      if (found == sizes.begin()) return word;
      --found;
      if (word > found->first + found->second) return word;
      host = found->first, bytes = found->second;
    }
    const auto copy = copies_.try_emplace(host, host, bytes).first;
    return copy->second.device() + (word - host);
  }
  static void refuse_the_stack(std::uintptr_t word) {
    const int here = 0;
    const auto stack = reinterpret_cast<std::uintptr_t>(&here);
    if (word > stack - (1 << 20) && word < stack + (8 << 20)) {
      throw simt::Fault("an argument points into the stack, which no card can read");
    }
  }

  std::map<std::uintptr_t, Copy> copies_;
};

}  // namespace card
