// A call of linear_scan on a CPU that goes from Python to the engine in one step, past torch's
// dispatcher, where no mode, tracer, transform, autocast or profiler could see the difference.
// Where a gradient may be asked for, autograd records a node of C++ (scan/way_back.h).
#pragma once
#include <pybind11/pybind11.h>

namespace fastcells {

// Defines scan_at_once in the module.
void bind_scan_at_once(pybind11::module_& module);

}  // namespace fastcells
