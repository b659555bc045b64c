#include "eager.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

namespace fastcells {

bool is_watched() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  constexpr c10::DispatchKeySet kUsual(
      {c10::DispatchKey::BackendSelect, c10::DispatchKey::ADInplaceOrView});
  return !kUsual.has_all(included) || at::autocast::is_autocast_enabled(at::kCPU) ||
         at::impl::torch_function_mode_enabled() || at::hasCallbacks() ||
         c10::impl::TorchDispatchModeTLS::any_modes_set();
}

bool is_plain(const at::Tensor& x) {
  constexpr c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                        c10::DispatchKey::AutocastCPU,
                                        c10::DispatchKey::ADInplaceOrView});
  return kPlain.has_all(x.key_set()) && !x._fw_grad(/*level=*/0).defined();
}

bool may_run_kernels(const std::vector<at::Tensor>& grads) {
  if (at::GradMode::is_enabled() || is_watched()) return false;
  for (const at::Tensor& grad : grads) {
    if (grad.defined() && !is_plain(grad)) return false;
  }
  return true;
}

}  // namespace fastcells
