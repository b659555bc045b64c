// Calls of modules on a CPU that go from Python to the engine in one step, past torch's dispatcher,
// where no mode, tracer, transform, autocast or profiler could see the difference. Where a gradient
// may be asked for, autograd records a node of C++ (recurrent/way_back.h).
#pragma once
#include <pybind11/pybind11.h>

namespace fastcells {

// Defines step_at_once, stack_at_once and packed_stack_at_once in the module.
void bind_at_once(pybind11::module_& module);

}  // namespace fastcells
