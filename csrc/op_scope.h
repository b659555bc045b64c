// What every op does around its work: it stays below the keys of autograd, and on a GPU it works on
// the device of its first tensor.
#pragma once
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

namespace fastcells {

class OpScope {
 public:
  explicit OpScope(const at::Tensor& first) {
    if (!first.is_cpu()) device_.reset_device(first.device());
  }

 private:
  at::AutoDispatchBelowADInplaceOrView below_;
  c10::OptionalDeviceGuard device_;
};

}  // namespace fastcells
