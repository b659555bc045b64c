// Kernels of elementwise cells: minimal.
#include "recurrent/elementwise/cuda/launch.cuh"

namespace fastcells {

template int launch_lanes_forward<MinGRU<Positive>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<MinGRU<Positive>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<MinGRU<Identity>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<MinGRU<Identity>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<MinLSTM<Positive>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<MinLSTM<Positive>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<MinLSTM<Identity>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<MinLSTM<Identity>>(Storage, const LaneBackwardArgs&, void*);

}  // namespace fastcells
