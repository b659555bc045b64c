// Lines: how what the blocks of a cluster send each other lies in their shared memory, so that the
// 16 bytes of eight rows that a warp has for a block, of a group of units, are one line of 128
// bytes there, whole, and take one access of the banks.
//
//   [16 bytes of a row][8 rows][16 bytes]    without padding
//
// A line is all banks once, whatever the order of rows in it. A quarter of a warp reads, for the
// product, two rows (2 k and 2 k + 1) of four lines that follow each other: two rows on from line
// to line, so that the eight pieces lie in eight places of a line.
#pragma once
#include "cuda/ptx.cuh"
#include "recurrent/cuda/plan.h"

namespace fastcells {

// Where row `row` of a tile lies in the line of the 16 bytes that have number `quad` in a row. That
// of `quad` + 4 is the same, which spares registers: a lane's slot is one for all steps over K, and
// for all gates.
FC_DEVICE int line_slot(int row, int quad) {
  constexpr int kRows = cuda::kTileRows, kStepQuads = cuda::kStepBytes / 16;
  static_assert(kRows == 2 * kStepQuads);
  return (row + 2 * (quad & (kStepQuads - 1))) & (kRows - 1);
}
FC_DEVICE int line_place(int row, int quad) {
  return quad * cuda::kTileRows + line_slot(row, quad);
}

}  // namespace fastcells
