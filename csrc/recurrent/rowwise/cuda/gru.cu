// Step kernels of layers that look at whole rows: gru.
#include "recurrent/rowwise/cuda/launch.cuh"

namespace fastcells {

template int launch_row_forward<GRU>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<GRU>(Storage, const RowBackwardArgs&, void*);
template int launch_row_forward<GRUArticle>(Storage, const RowForwardArgs&, void*);
template int launch_row_backward<GRUArticle>(Storage, const RowBackwardArgs&, void*);

}  // namespace fastcells
