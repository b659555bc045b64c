// Kernels of elementwise cells: sru.
#include "recurrent/elementwise/cuda/launch.cuh"

namespace fastcells {

template int launch_lanes_forward<SRU<false>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<SRU<false>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<SRU<true>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<SRU<true>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<QRNN>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<QRNN>(Storage, const LaneBackwardArgs&, void*);

}  // namespace fastcells
