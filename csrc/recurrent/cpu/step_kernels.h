// The fused step kernels on the CPU.
#pragma once
#include "recurrent/stepwise/stepwise.h"

namespace fastcells {

// Stateless, and so shared by all threads.
const StepKernels& cpu_step_kernels();

}  // namespace fastcells
