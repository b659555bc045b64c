// Step kernels of the GRU variants.
#include "recurrent/cuda/step_launch.cuh"

namespace fastcells {

template int launch_step_forward<GRU>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<GRU>(Stage, Storage, const StepBackwardArgs&, void*);
template int launch_step_forward<GRUResetBefore>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<GRUResetBefore>(Stage, Storage, const StepBackwardArgs&, void*);
template int launch_step_forward<GRUArticle>(Stage, Storage, const StepForwardArgs&, void*);
template int launch_step_backward<GRUArticle>(Stage, Storage, const StepBackwardArgs&, void*);

}  // namespace fastcells
