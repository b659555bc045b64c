// Step kernels of layers that look at whole rows: lstm.
#include "recurrent/rowwise/cuda/launch.cuh"

namespace fastcells {

template int launch_row_forward<LSTM>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<LSTM>(Storage, const RowBackwardArgs&, void*);
template int launch_row_forward<PeepholeLSTM>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<PeepholeLSTM>(Storage, const RowBackwardArgs&, void*);

}  // namespace fastcells
