// Sequence kernels of the GRU variants of one product a step.
#include "recurrent/cuda/sequence.cuh"

namespace fastcells {

template int launch_sequence_forward<GRU>(Storage, const cuda::Plan&, int,
                                          const SequenceForwardArgs&, void*);
template int launch_sequence_backward<GRU>(Storage, const cuda::Plan&, int,
                                           const SequenceBackwardArgs&, void*);
template int launch_sequence_forward<GRUArticle>(Storage, const cuda::Plan&, int,
                                                 const SequenceForwardArgs&, void*);
template int launch_sequence_backward<GRUArticle>(Storage, const cuda::Plan&, int,
                                                  const SequenceBackwardArgs&, void*);

}  // namespace fastcells
