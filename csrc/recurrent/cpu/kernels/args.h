// What the CPU engine asks of an instruction set: plain arguments and a table of functions. No
// function is defined here, so that none is compiled for two instruction sets. Torch-free.
//
// Letters as in docs/notation.md. T is storage, A the arithmetic type (float, double for float64).
// One call is one thread's share of one direction; all buffers are the engine's. A panel of gates
// is [K][W][G][lanes] (W unit vectors wide), a plain panel [K][2][lanes]; both zero past the edge,
// and how wide an element is kernels/panels.h tells.
// Units are padded to whole panels in the carries ([rows][padded H]) and nowhere else.
#pragma once
#include <cstddef>
#include <cstdint>

#include "storage.h"

namespace fastcells::cpu {

// Turns of a waiting thread before it falls asleep, about 18 ns each.
constexpr int kPatience = 4000;

// A barrier of a few threads; one cache line for each counter.
struct Barrier {
  alignas(64) int arrived = 0;
  alignas(64) int phase = 0;
  int threads = 1, patience = kPatience;
  alignas(64) int sleepers = 0;
};

// The batch rows that a group of threads takes through time together, the longest first, so that
// those that exist at a step are the first active[t].
struct RowGroup {
  std::int64_t rows;
  std::int64_t first;          // place of its first row in the carries
  const std::int32_t* order;   // [rows] batch rows
  const std::int32_t* active;  // [T]
};

// A thread among those that share one direction: `group` of rows, and a share of the units in it.
struct Place {
  const RowGroup* groups;
  int group_count, group;
  int rank, threads;            // within the group: its share of the units
  int team_rank, team_threads;  // among all threads of the direction
  Barrier* group_barrier;
  Barrier* team_barrier;
  void* scratch;  // this thread's own
};

struct LayerArgs {
  std::int64_t T, B, I, H, padded_H;
  std::int64_t P, padded_P;  // units of h: H where it is not projected
  bool reverse;
  const void* input;            // T [T, B, I]
  const void* h_0;              // T [B, P] or nullptr: zeros
  const void* c_0;              // T [B, N*H] or nullptr: zeros
  const std::int64_t* lengths;  // [B] or nullptr: T
  const bool* resets;           // [T, B] or nullptr: none
  const void* panels_ih;        // of W_ih
  const void* panels_hh;        // of W_hh
  const void* bias_ih;          // A [panels][W*G*lanes] or nullptr
  const void* bias_hh;          // A [panels][W*G*lanes] or nullptr
  // A single step reads the weights as they lie, in the place of every panel; else all are nullptr.
  const void* own_weight_ih;                               // T [G*H, I]
  const void* own_weight_hh;                               // T [G*H, H]
  const void* own_bias_ih;                                 // T [G*H] or nullptr
  const void* own_bias_hh;                                 // T [G*H] or nullptr
  std::int64_t output_stride, cells_stride, saved_stride;  // from row to row; a step is B rows
  std::int64_t chunk_frames;  // rows of one product over several steps, at least B
};

struct ForwardArgs : LayerArgs {
  void* output;   // T [T, B, P]
  void* h_n;      // T [B, P]
  void* c_n;      // T [B, N*H] or nullptr
  void* cells;    // A [T, B, N*H] or nullptr: not wanted
  void* saved;    // T [T, B, S*H] or nullptr: not wanted
  void* carry_h;  // A [2][B][padded P] scratch, rows in the groups' order
  void* carry_c;  // A [B][N][padded H] scratch
};

// Panels over frames hold whole tiles: pairs of at least so many.
constexpr std::int64_t kLeastPanelFrames = 16;

struct BackwardArgs : LayerArgs {
  const void* output;    // T [T, B, P]: the forward pass's
  const void* cells;     // A [T, B, N*H] or nullptr: a cell without c
  const void* saved;     // T [T, B, S*H] or nullptr: to be computed again
  const void* d_output;  // T [T, B, P] or nullptr: zero
  const void* d_cells;   // A [T, B, N*H] or nullptr: zero
  const void* d_h_n;     // T [B, P] or nullptr: zero
  const void* d_c_n;     // T [B, N*H] or nullptr: zero
  const void* plain_hh;  // plain panels of W_hh
  const void* plain_ih;  // of W_ih, or nullptr: no d_input
  void* d_input;         // A [T, B, I] out, or nullptr. Rows that do not exist are left alone
  bool add_to_d_input;
  void* d_weight_ih;    // A [G*H, I] out, or nullptr
  void* d_weight_hh;    // A [G*H, P] out, or nullptr
  void* d_bias_ih;      // A [G*H] out, or nullptr
  void* d_bias_hh;      // A [G*H] out, or nullptr
  bool add_to_weights;  // to what these four hold
  void* d_h_0;          // A [B, P] out, or nullptr
  void* d_c_0;          // A [B, N*H] out, or nullptr
  void* carry_dh;       // A [B][padded P] scratch
  void* carry_dc;       // A [B][N][padded H] scratch
  void* dx_gates;       // A [chunk_frames][G*H] scratch
  void* dg_gates;       // A [chunk_frames][G*H] scratch; is dx_gates for an additive cell
  void* saved_again;    // A [chunk_frames][S*H] scratch where `saved` is nullptr
  void* plain_x;        // plain panels of x over the frames, or pairs of them, of a chunk: scratch
  // The same of h; each of the size of A [panels][chunk_frames or kLeastPanelFrames][2*lanes].
  void* plain_h;
};

// One step of one direction, the weights read as they lie: rows of W times h.
struct StepArgs {
  std::int64_t B, I, H;
  const void* input;      // A [B, I]
  const void* h;          // A [B, H] or nullptr: zeros
  const void* c;          // T [B, H] or nullptr: zeros
  const void* weight_ih;  // T [G*H, I]
  const void* weight_hh;  // T [G*H, H]
  const void* bias_ih;    // T [G*H] or nullptr
  const void* bias_hh;    // T [G*H] or nullptr
  void* h_new;            // T [B, H]
  void* c_new;            // T [B, H] or nullptr
  void* cells;            // A [B, H] or nullptr: not wanted
  void* saved;            // T [B, S*H] or nullptr: not wanted
};

constexpr int kMostAlone = 64;

// How weights are stored: as the layer's tensors are, or narrower beside float32 tensors.
enum class WeightStorage { kAsTensors, kBFloat16, kInt8 };

// For one cell, storage type and weights' storage.
struct CellKernels {
  int lanes;          // of a vector
  int panel_units;    // W*lanes: units of a panel of gates
  int panel_vectors;  // W*G
  int plain_columns;  // 2*lanes
  double narrowness;  // a float's bytes to those of a weight in a panel
  int terms;          // products that a lane sums in one instruction
  int barriers;       // of a step, where threads share the units
  const char* instruction_set;
  bool takes_own_weights;  // a single step may read the weights as they lie
  std::size_t (*gate_panel_bytes)(std::int64_t K);  // of a panel of K steps
  std::size_t (*forward_scratch)(const LayerArgs&, std::int64_t own_panels, std::int64_t rows);
  void (*forward)(const ForwardArgs&, const Place&);
  // The places of one group, at most kMostAlone, whose barriers are of one thread.
  void (*forward_alone)(const ForwardArgs&, const Place*, int count);
  // Panels first .. last - 1 of W [G*H, K] as it lies, and of the biases [G*H] (or nullptr). int8
  // weights have a scale for each of their rows.
  void (*pack_gates)(const void* weight, const float* scales, const void* bias, std::int64_t H,
                     std::int64_t K, std::int64_t first, std::int64_t last, void* panels,
                     void* bias_panels);
  // The rest is nullptr where weights are narrower than the tensors: no way back, no single step.
  std::size_t (*backward_scratch)(const BackwardArgs&);
  void (*backward)(const BackwardArgs&, const Place&);
  std::size_t (*plain_panel_bytes)(std::int64_t K);
  // Plain panels first .. last - 1 of W [K, N] as it lies.
  void (*pack_plain)(const void* weight, std::int64_t K, std::int64_t N, std::int64_t first,
                     std::int64_t last, void* panels);
  // Units first .. last - 1.
  void (*step)(const StepArgs&, std::int64_t first, std::int64_t last);
};

// nullptr where there is no such cell or storage. `cell` is the place in the list of
// recurrent/cells/cells.h.
using FindKernels = const CellKernels* (*)(int cell, Storage, WeightStorage);

// The kernels of one instruction set.
struct CellTable {
  FindKernels find;
  std::uint64_t (*hash)(const void* bytes, std::int64_t count);
};

const CellTable& baseline_kernels();
const CellTable& avx2_kernels();
const CellTable& avx512_kernels();
// What each set has beside them: weights narrower than the arithmetic.
const CellKernels* baseline_narrow(int cell, Storage, WeightStorage);
const CellKernels* avx2_narrow(int cell, Storage, WeightStorage);
const CellKernels* avx2_vnni_narrow(int cell, Storage, WeightStorage);
const CellKernels* avx512_narrow(int cell, Storage, WeightStorage);
const CellKernels* avx512_vnni_narrow(int cell, Storage, WeightStorage);
const CellKernels* avx512_bf16_narrow(int cell, Storage, WeightStorage);
const CellKernels* amx_narrow(int cell, Storage, WeightStorage);

// Those of the instruction set in use (table.cpp).
const CellKernels* find_kernels(int cell, Storage, WeightStorage);
std::uint64_t hash_bytes(const void* bytes, std::int64_t count);

}  // namespace fastcells::cpu
