// Step kernels of the LSTM.
#include "recurrent/cuda/step_launch.cuh"

namespace fastcells {

template int launch_step_forward<LSTM>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<LSTM>(Stage, Storage, const StepBackwardArgs&, void*);

}  // namespace fastcells
