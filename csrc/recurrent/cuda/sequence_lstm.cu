// Sequence kernels of the LSTM.
#include "recurrent/cuda/sequence.cuh"

namespace fastcells {

template int launch_sequence_forward<LSTM>(Storage, const cuda::Plan&, int,
                                           const SequenceForwardArgs&, void*);
template int launch_sequence_backward<LSTM>(Storage, const cuda::Plan&, int,
                                            const SequenceBackwardArgs&, void*);

}  // namespace fastcells
