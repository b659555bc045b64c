// Memory for tests whose end and front are watched. Torch-free.
//
// A buffer ends where its memory page ends, and the next page may be neither read nor written: a
// step too far ends the program. All other bytes, those in front of the buffer too, begin as ones,
// which is NaN in every format.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// What is being checked: printed when a guarded page is touched.
inline char current_check[200];

inline void watch_guards() {
  const auto report = [](int signal) {
    const auto say = [](const char* text) { return write(STDOUT_FILENO, text, std::strlen(text)); };
    const bool is_said = say("FAILED: outside a buffer in ") > 0 && say(current_check) > 0;
    _exit(is_said && say("\n") ? 1 : signal);
  };
  for (const int signal : {SIGSEGV, SIGBUS}) std::signal(signal, report);
}

#ifdef __CUDACC__
// On a card the copies have guards (card/memory.h): here the end of the buffer is a multiple of 16
// bytes, as that of a page is.
template <class X>
class Guarded {
 public:
  explicit Guarded(std::int64_t count)
      : bytes_(std::size_t(count) * sizeof(X)),
        pad_((kAlignment - bytes_ % kAlignment) % kAlignment),
        memory_(pad_ + bytes_, 0xff) {}
  explicit Guarded(const std::vector<X>& values) : Guarded(std::int64_t(values.size())) {
    if (!values.empty()) std::memcpy(data(), values.data(), bytes_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  X* data() { return reinterpret_cast<X*>(memory_.data() + pad_); }
  const X* data() const { return reinterpret_cast<const X*>(memory_.data() + pad_); }
  bool is_intact() const {
    for (std::size_t i = 0; i < pad_; ++i) {
      if (memory_[i] != 0xff) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kAlignment = 16;
  std::size_t bytes_, pad_;
  std::vector<unsigned char> memory_;
};
#else
template <class X>
class Guarded {
 public:
  explicit Guarded(std::int64_t count) : bytes_(std::size_t(count) * sizeof(X)) {
    const auto page = std::size_t(sysconf(_SC_PAGESIZE));
    pages_ = (bytes_ + page - 1) / page * page + page;  // one at least in front, to be looked at
    total_ = pages_ + page;
    void* const base =
        mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) std::abort();
    base_ = static_cast<unsigned char*>(base);
    std::memset(base_, 0xff, pages_);
    if (mprotect(base_ + pages_, page, PROT_NONE) != 0) std::abort();
  }
  explicit Guarded(const std::vector<X>& values) : Guarded(std::int64_t(values.size())) {
    if (!values.empty()) std::memcpy(data(), values.data(), bytes_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, total_); }

  X* data() { return reinterpret_cast<X*>(base_ + pages_ - bytes_); }
  const X* data() const { return reinterpret_cast<const X*>(base_ + pages_ - bytes_); }
  // Nothing was written in front of the buffer.
  bool is_intact() const {
    for (const unsigned char* p = base_; p < base_ + pages_ - bytes_; ++p) {
      if (*p != 0xff) return false;
    }
    return true;
  }

 private:
  unsigned char* base_;
  std::size_t bytes_, pages_, total_;
};
#endif

// Whether x still holds the ones that its buffer began with.
template <class X>
bool is_untouched(const X& x) {
  unsigned char ones[sizeof(X)];
  std::memset(ones, 0xff, sizeof ones);
  return std::memcmp(&x, ones, sizeof ones) == 0;
}
