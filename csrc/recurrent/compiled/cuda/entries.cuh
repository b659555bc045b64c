// The kernels of a cell that is compiled by itself, fastcells::compiled::Own, under names by which
// the module finds them: a step, or all steps of an elementwise cell, on its way and back.

extern "C" __global__ void __launch_bounds__(fastcells::compiled::Own::kThreads)
    own_forward_kernel(const __grid_constant__ fastcells::compiled::Own::ForwardArgs a) {
  fastcells::compiled::Own::forward(a);
}
extern "C" __global__ void __launch_bounds__(fastcells::compiled::Own::kThreads)
    own_backward_kernel(const __grid_constant__ fastcells::compiled::Own::BackwardArgs a) {
  fastcells::compiled::Own::backward(a);
}
