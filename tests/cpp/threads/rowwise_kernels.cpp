// The kernels of the row-wise layers of engines.cpp: of one cell and storage, for the time that
// all of the table take to compile.
#include "cpu/simd/baseline.h"

#include "recurrent/rowwise/cpu/kernels/table.h"

namespace fastcells::rowwise {

const Kernels* find_kernels(int, Storage) { return &kRowwise<LSTM, float, WholePanels<float>>; }

}  // namespace fastcells::rowwise
