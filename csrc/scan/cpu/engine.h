// The scan engine of the CPU: lanes side by side, shares of them a thread; where lanes are few,
// chunks of time.
#pragma once
#include "scan/engine.h"

namespace fastcells::cpu {

const ScanEngine& scan_engine();

}  // namespace fastcells::cpu
