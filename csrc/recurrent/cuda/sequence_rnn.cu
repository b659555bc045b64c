// Sequence kernels of the Elman cells.
#include "recurrent/cuda/sequence.cuh"

namespace fastcells {

template int launch_sequence_forward<RNN<Tanh>>(Storage, const cuda::Plan&, int,
                                                const SequenceForwardArgs&, void*);
template int launch_sequence_backward<RNN<Tanh>>(Storage, const cuda::Plan&, int,
                                                 const SequenceBackwardArgs&, void*);
template int launch_sequence_forward<RNN<ReLU>>(Storage, const cuda::Plan&, int,
                                                const SequenceForwardArgs&, void*);
template int launch_sequence_backward<RNN<ReLU>>(Storage, const cuda::Plan&, int,
                                                 const SequenceBackwardArgs&, void*);

}  // namespace fastcells
