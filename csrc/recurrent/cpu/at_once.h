// Calls of modules that go from Python to the engine in one step, past torch's dispatcher, where
// neither a gradient nor a mode, tracer, transform, autocast or profiler could see the difference.
#pragma once
#include <pybind11/pybind11.h>

namespace fastcells::cpu {

// Defines step_at_once and stack_at_once in the module.
void bind_at_once(pybind11::module_& module);

}  // namespace fastcells::cpu
