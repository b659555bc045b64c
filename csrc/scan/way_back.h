// The node of C++ that records an eager scan for autograd. What it saves, in which order, is as
// functional/scan_autograd.py has it, whose formula takes over where a gradient may be
// differentiated again, or something watches.
#pragma once
#include "ops.h"

namespace fastcells {

// h of a and b of three dimensions, as the op has them.
at::Tensor recorded_scan(const at::Tensor& a, const at::Tensor& b, const OptionalTensor& h_0,
                         const OptionalTensor& lengths, const OptionalTensor& resets,
                         bool batch_first, bool reverse);

}  // namespace fastcells
