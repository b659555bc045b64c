// Kernels of elementwise cells: diagonal.
#include "recurrent/elementwise/cuda/launch.cuh"

namespace fastcells {

template int launch_lanes_forward<DiagonalGRU>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<DiagonalGRU>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<DiagonalLSTM>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<DiagonalLSTM>(Storage, const LaneBackwardArgs&, void*);

}  // namespace fastcells
