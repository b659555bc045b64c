// Kernels of elementwise cells: indrnn.
#include "recurrent/elementwise/cuda/launch.cuh"

namespace fastcells {

template int launch_lanes_forward<IndRNN<Tanh>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<IndRNN<Tanh>>(Storage, const LaneBackwardArgs&, void*);
template int launch_lanes_forward<IndRNN<ReLU>>(Storage, const LaneForwardArgs&, void*);
template int launch_lanes_backward<IndRNN<ReLU>>(Storage, const LaneBackwardArgs&, void*);

}  // namespace fastcells
