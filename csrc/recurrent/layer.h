// The arguments of one recurrent layer, checked once and named, for every engine and device.
#pragma once
#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "ops.h"
#include "recurrent/cells/dispatch.h"
#include "rows.h"

namespace fastcells {

// What the engine has to know of a cell at run time.
struct CellFacts {
  CellKind kind;
  const char* name;
  int gates, states, saved;  // states: h and those beside it, which stand side by side in c
  bool additive, two_products;
  bool is_elementwise;   // no W_hh: weight_hh is a vector of `unit_weights` values a unit
  int unit_weights;      // also of a row cell, beside W_hh
  bool reads_input;      // a unit reads a column of the input as it is
  bool has_output_gate;  // h' = output(o, c'), where c' may be normalised first
  bool whole_rows;       // runs on the row-wise engine, whatever its layer has

  bool has_c() const { return states > 1; }
};

// Throws, with the list of known names, for an unknown one.
CellFacts find_cell(std::string_view name);
const std::vector<CellFacts>& all_cells();

struct LayerSizes {
  int64_t T, B, I, H, P, G, D, N;
  int64_t saved;  // values a unit, row and step keeps for the way back

  int64_t c() const { return N * H; }  // columns of c
  // Shapes of c and of all c, for errors.
  const char* c_letters() const { return N > 1 ? "(D, B, N*H)" : "(D, B, H)"; }
  const char* cells_letters() const { return N > 1 ? "(T, B, D*N*H)" : "(T, B, D*H)"; }
};

// One value for each weight that a direction may have.
template <class T>
struct PerWeight {
  T weight_ih{};  // [G*H, I]
  T weight_hh{};  // [G*H, P]; of an elementwise cell [V*H], absent where V is 0
  T bias_ih{};    // [G*H], or absent together with bias_hh
  T bias_hh{};    // [G*H]; an elementwise cell has none
  T weight_hr{};  // [P, H], or absent: no projection
  // Of weights in int8, for inference alone: weight = scale * int8, a scale for each row.
  T scale_ih{};  // [G*H]
  T scale_hh{};  // [G*H]
  // Of a cell that reads the input as it is: the factor of each unit's column, or absent: 1.
  T skip_scale{};  // [H]
  // Of layer normalisation: the gains of W x and of W h, each over all gates; or that of their sum,
  // gate by gate; and gain and shift of c on its way to h.
  T norm_ih{};         // [G*H], together with norm_hh; of a cell from equations either alone, too
  T norm_hh{};         // [G*H]
  T norm_gates{};      // [G*H], in the place of both
  T norm_c{};          // [H], or absent: c is not normalised
  T norm_carried_c{};  // [H], in the place of norm_c: the normalised c is carried on, too
  T norm_c_bias{};     // [H], or absent
  // Of a row cell: its vectors.
  T unit_weights{};  // [V*H]
  // float64 [5]: what is drawn at each call, recurrent/rowwise/noise.h. On the CPU.
  T noise{};
};
using DirectionWeights = PerWeight<at::Tensor>;  // contiguous; undefined where absent

// f(name, the member of that name) for each of them. The op's lists are in the caller's order, and
// only the names beside them tell which is which.
template <class T, class F>
void for_each_weight(PerWeight<T>& weights, const F& f) {
  f("weight_ih", weights.weight_ih), f("weight_hh", weights.weight_hh);
  f("bias_ih", weights.bias_ih), f("bias_hh", weights.bias_hh);
  f("weight_hr", weights.weight_hr);
  f("scale_ih", weights.scale_ih), f("scale_hh", weights.scale_hh);
  f("skip_scale", weights.skip_scale);
  f("norm_ih", weights.norm_ih), f("norm_hh", weights.norm_hh);
  f("norm_gates", weights.norm_gates);
  f("norm_c", weights.norm_c), f("norm_carried_c", weights.norm_carried_c);
  f("norm_c_bias", weights.norm_c_bias);
  f("unit_weights", weights.unit_weights), f("noise", weights.noise);
}
// The member of that name, or nullptr.
template <class T>
T* find_weight(PerWeight<T>& weights, std::string_view name) {
  T* found = nullptr;
  for_each_weight(weights, [&](std::string_view known, T& member) {
    if (known == name) found = &member;
  });
  return found;
}

// What a layer with these weights normalises over the units of a row: W x or W h; c.
inline bool normalises_products(const DirectionWeights& w) {
  return w.norm_ih.defined() || w.norm_hh.defined() || w.norm_gates.defined();
}
inline bool normalises_c(const DirectionWeights& w) {
  return w.norm_c.defined() || w.norm_carried_c.defined();
}
inline bool takes_whole_rows(const CellFacts& cell, const DirectionWeights& w) {
  return cell.whole_rows || normalises_products(w) || normalises_c(w) || w.noise.defined();
}

struct Layer {
  CellFacts cell;
  LayerSizes sizes;
  Storage storage;
  at::Tensor input;                       // [T, B, I] contiguous
  at::Tensor h_0;                         // [D, B, P] contiguous or undefined: zeros
  at::Tensor c_0;                         // [D, B, N*H] contiguous or undefined: zeros
  std::vector<DirectionWeights> weights;  // D
  at::Tensor lengths;                     // [B] int64 or undefined: T
  at::Tensor resets;                      // [T, B] bool or undefined: none

  bool is_projected() const { return weights[0].weight_hr.defined(); }
  // A second product in a step: of the projection, or of a cell's last gate.
  bool has_second_product() const { return is_projected() || cell.two_products; }
  // Whether weights are narrower than the other tensors: inference on a CPU alone.
  bool is_quantized() const { return weights[0].weight_ih.scalar_type() != input.scalar_type(); }
  // Whether a cell needs more than its own unit: a normalisation over units, or noise.
  bool is_rowwise() const { return takes_whole_rows(cell, weights[0]); }
  bool is_normalised() const { return normalises_products(weights[0]); }
  bool normalises_c() const { return fastcells::normalises_c(weights[0]); }
  // Arithmetic and cell state: double for float64, float otherwise.
  at::ScalarType arithmetic() const;
  // Of what is kept for the way back. Products that are normalised keep their precision: the gates
  // are computed from them again, and must fall on the same side of a kink.
  at::ScalarType storage_of_saved() const {
    return is_normalised() ? arithmetic() : input.scalar_type();
  }
  Rows rows(int64_t direction) const;
  // Where the columns of the input begin that units of a direction read as they are: of an input
  // of H columns all, of one of D*H the direction's own.
  int64_t raw_column(int64_t direction) const {
    return sizes.I == sizes.H ? 0 : direction * sizes.H;
  }
};

using WeightNames = std::vector<std::string_view>;
// Of an op's argument `names`.
WeightNames split_names(std::string_view names);

// The arguments as an op's schema has them.
struct LayerArguments {
  std::string_view cell;
  int64_t directions;
  const at::Tensor& input;
  const OptionalTensor& h_0;
  const OptionalTensor& c_0;
  at::TensorList weights;    // those of the first direction, then those of the second
  const WeightNames& names;  // of the weights of one direction
  const OptionalTensor& lengths;
  const OptionalTensor& resets;
};

// Refuses whatever does not fit together. The values of `lengths` are checked on a CPU, and by an
// assertion on the device elsewhere, so that nothing waits.
Layer check_layer(const char* op, const LayerArguments& arguments);

// Throws unless `tensor` is undefined or has this shape and dtype, where the input is.
void check_optional(const char* op, const char* name, const char* letters, const at::Tensor& tensor,
                    at::IntArrayRef shape, at::ScalarType dtype, const at::Tensor& input);

}  // namespace fastcells
