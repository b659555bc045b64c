// The lists of cells.h where none of the built-in cells is wanted. Included there.
using Cells = CellList<>;
using ElementwiseCells = CellList<>;
using RowCells = CellList<>;
