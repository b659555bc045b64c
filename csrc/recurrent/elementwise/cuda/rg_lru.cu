// Kernels of elementwise cells: rg_lru.
#include "recurrent/elementwise/cuda/launch.cuh"

namespace fastcells {

template int launch_lanes_forward<RGLRU>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<RGLRU>(Storage, const LaneBackwardArgs&, void*);

}  // namespace fastcells
