// Launchers of the kernels: the bridge from the entry points (.cpp) to the .cu files.
// Torch-free, plain data; `stream` is a cudaStream_t. Each returns the launch's cudaError_t as int.
#pragma once
#include "recurrent/cells/dispatch.h"
#include "recurrent/cuda/plan.h"
#include "recurrent/cuda/sequence_args.h"
#include "recurrent/stepwise/step_args.h"

namespace fastcells {

// Stages that know no cell (kStart, kProjectForward, kPrevious, kProjectBackward, kFinish).
int launch_step_forward_any(Stage stage, Storage storage, const StepForwardArgs& args,
                            void* stream);
int launch_step_backward_any(Stage stage, Storage storage, const StepBackwardArgs& args,
                             void* stream);

// Stages of one cell; instantiated in one .cu per family of cells.
template <class Cell>
int launch_step_forward(Stage stage, Storage storage, const StepForwardArgs& args, void* stream);
template <class Cell>
int launch_step_backward(Stage stage, Storage storage, const StepBackwardArgs& args, void* stream);

// Blocks of the largest cluster that finds a place on the current device, each with so much shared
// memory; 1 where the kernels were built for GPUs without clusters, whatever the device has.
int largest_cluster(int shared_bytes);

// All steps of a layer, `directions` of them, as the plan says; not float64.
template <class Cell>
int launch_sequence_forward(Storage storage, const cuda::Plan& plan, int directions,
                            const SequenceForwardArgs& args, void* stream);
template <class Cell>
int launch_sequence_backward(Storage storage, const cuda::Plan& plan, int directions,
                             const SequenceBackwardArgs& args, void* stream);

}  // namespace fastcells
