// Step kernels of the Elman cells.
#include "recurrent/cuda/step_launch.cuh"

namespace fastcells {

template int launch_step_forward<RNN<Tanh>>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<RNN<Tanh>>(Stage, Storage, const StepBackwardArgs&, void*);
template int launch_step_forward<RNN<ReLU>>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<RNN<ReLU>>(Stage, Storage, const StepBackwardArgs&, void*);

}  // namespace fastcells
