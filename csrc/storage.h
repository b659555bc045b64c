// How tensors are stored, and the way from a storage that is known at run time to types. No other
// file switches on a dtype. Torch-free.
#pragma once
#ifndef __CUDACC_RTC__  // which has no dispatch at run time, and no header of the standard library
#include <stdexcept>
#include <string>
#endif

namespace fastcells {

template <class X>
struct TypeTag {
  using type = X;
};

// How tensors are stored. Arithmetic is double for float64, float for everything else.
enum class Storage { kFloat32, kFloat64, kFloat16, kBFloat16 };
inline int element_bytes(Storage storage) {
  return storage == Storage::kFloat64 ? 8 : storage == Storage::kFloat32 ? 4 : 2;
}

// T: storage in memory. M: operand of a matrix product. A: arithmetic, and the cell state.
template <class T_, class M_, class A_>
struct Types {
  using T = T_;
  using M = M_;
  using A = A_;
};

#ifndef __CUDACC_RTC__
// Calls f(Types<...>). A device names its 16-bit types and whether its products take them as they
// are (`Operand<T>`).
template <class Device, class F>
void dispatch_storage(Storage storage, F&& f) {
  using Half = typename Device::Half;
  using BFloat16 = typename Device::BFloat16;
  switch (storage) {
    case Storage::kFloat32: return f(Types<float, float, float>{});
    case Storage::kFloat64: return f(Types<double, double, double>{});
    case Storage::kFloat16: return f(Types<Half, typename Device::template Operand<Half>, float>{});
    case Storage::kBFloat16:
      return f(Types<BFloat16, typename Device::template Operand<BFloat16>, float>{});
  }
  throw std::logic_error("fastcells: unknown storage " + std::to_string(int(storage)));
}

// Returns f(TypeTag<T>), for kernels whose arithmetic is float: they have no float64.
template <class Device, class F>
auto dispatch_float_storage(Storage storage, F&& f) {
  switch (storage) {
    case Storage::kFloat32: return f(TypeTag<float>{});
    case Storage::kFloat16: return f(TypeTag<typename Device::Half>{});
    case Storage::kBFloat16: return f(TypeTag<typename Device::BFloat16>{});
    case Storage::kFloat64: break;
  }
  throw std::logic_error("fastcells: no kernel of float for storage " +
                         std::to_string(int(storage)));
}
#endif

}  // namespace fastcells
