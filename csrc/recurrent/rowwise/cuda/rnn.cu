// Step kernels of layers that look at whole rows: rnn.
#include "recurrent/rowwise/cuda/launch.cuh"

namespace fastcells {

template int launch_row_forward<RNN<Tanh>>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<RNN<Tanh>>(Storage, const RowBackwardArgs&, void*);
template int launch_row_forward<RNN<ReLU>>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<RNN<ReLU>>(Storage, const RowBackwardArgs&, void*);

}  // namespace fastcells
