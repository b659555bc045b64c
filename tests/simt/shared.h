// Shared memory with every access looked at. Under nvcc Shared<T> is T*.
#pragma once
#include <cstddef>
#include <type_traits>

#include "simt/machine.h"

namespace simt {

// `size` bytes at `offset` of a block's shared memory, of which the pointer may touch low .. high.
struct Place {
  Block* block = nullptr;
  std::ptrdiff_t offset = 0, low = 0, high = 0;

  std::string text(std::size_t size) const {
    return std::to_string(size) + " bytes at " + std::to_string(offset) + " of block " +
           std::to_string(block->rank) + "'s shared memory";
  }
  void check(std::size_t size) const {
    if (!block) throw Fault("a null pointer into shared memory is used");
    if (offset < low || offset + std::ptrdiff_t(size) > high) {
      throw Fault(text(size) + ": out of bounds, the array is " + std::to_string(low) + " .. " +
                  std::to_string(high));
    }
    if (offset % std::ptrdiff_t(size) != 0) throw Fault(text(size) + ": misaligned");
    if (block->running == 0) throw Fault(text(size) + ": the block has ended");
  }
  unsigned char* bytes() const { return block->shared.data() + offset; }

  // Counts an access of the running thread.
  void see(Seen what, std::size_t size) const {
    simt::see(what, {size, std::uint64_t(low), std::uint64_t(offset)});
  }
  void note(std::size_t size, bool is_write, Event now, const Clock& clock) const {
    if (!looks_at_orders()) return;
    for (std::size_t byte = 0; byte < size; byte += Granule::kBytes) {
      Granule& granule = block->history[(offset + byte) / Granule::kBytes];
      const std::string wrong = is_write ? granule.write(now, clock) : granule.read(now, clock);
      if (!wrong.empty()) {
        throw Fault(text(size) + " " + wrong + " (thread " + std::to_string(self().agent) + ")");
      }
    }
  }
  void read(void* to, std::size_t size) const {
    check(size);
    see(Seen::kSharedRead, size);
    note(size, false, tick(), self().clock);
    std::memcpy(to, bytes(), size);
  }
  void write(const void* from, std::size_t size) const {
    check(size);
    see(Seen::kSharedWrite, size);
    note(size, true, tick(), self().clock);
    std::memcpy(bytes(), from, size);
  }
};

// One element: reading and assigning are the accesses.
template <class T>
class SharedElement {
 public:
  explicit SharedElement(Place place) : place_(place) {}
  operator T() const {
    T value;
    place_.read(&value, sizeof value);
    return value;
  }
  const SharedElement& operator=(T value) const {
    place_.write(&value, sizeof value);
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const { return *this = T(other); }
  const SharedElement& operator+=(T value) const { return *this = T(*this) + value; }

 private:
  Place place_;
};

template <class T>
struct Shared {
  Place place;

  SharedElement<T> operator[](std::ptrdiff_t i) const {
    return SharedElement<T>((*this + i).place);
  }
  SharedElement<T> operator*() const { return SharedElement<T>(place); }
  Shared operator+(std::ptrdiff_t i) const {
    Shared moved = *this;
    moved.place.offset += i * std::ptrdiff_t(sizeof(T));
    return moved;
  }
  Shared& operator+=(std::ptrdiff_t i) { return *this = *this + i; }
};

// Array number by number from the front of the dynamic shared memory: bounds are the array's.
template <class T>
Shared<T> shared_array(std::ptrdiff_t byte, std::ptrdiff_t count) {
  Block* const block = self().block;
  const std::ptrdiff_t end = byte + count * std::ptrdiff_t(sizeof(T));
  if (end > std::ptrdiff_t(block->shared.size())) {
    throw Fault("the kernel's arrays end at " + std::to_string(end) +
                ", but it was launched with " + std::to_string(block->shared.size()) +
                " bytes of shared memory");
  }
  return {{block, byte, byte, end}};
}

// The same memory as elements of another type.
template <class U, class T>
Shared<U> shared_cast(Shared<T> pointer) {
  return {pointer.place};
}

}  // namespace simt
