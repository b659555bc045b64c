#include "recurrent/layer.h"

#include <algorithm>

#include "checks.h"
#include "dense.h"
#include "recurrent/compiled/registry.h"
#include "recurrent/rowwise/noise.h"

#ifdef FASTCELLS_WITH_CUDA
#include "recurrent/compiled/cuda/kernels.h"
#endif

namespace fastcells {

const std::vector<CellFacts>& all_cells() {
  static const auto* const cells = [] {
    auto* const all = new std::vector<CellFacts>;
    for_each_cell([&](auto tag, CellKind kind) {
      using Cell = typename decltype(tag)::type;
      all->push_back({kind, Cell::kName, Cell::kGates, Cell::kStates, Cell::kSaved, Cell::kAdditive,
                      Cell::kTwoProducts, false, 0, false, requires { Cell::kOutputGate; }, false});
    });
    for_each_elementwise_cell([&](auto tag, CellKind kind) {
      using Cell = typename decltype(tag)::type;
      all->push_back({kind, Cell::kName, Cell::kGates, Cell::kStates, Cell::kSaved, true, false,
                      true, Cell::kUnitWeights, Cell::kReadsInput, false, false});
    });
    for_each_row_cell([&](auto tag, CellKind kind) {
      using Cell = typename decltype(tag)::type;
      all->push_back({kind, Cell::kName, Cell::kGates, Cell::kStates, Cell::kSaved, Cell::kAdditive,
                      Cell::kTwoProducts, false, Cell::kUnitWeights, false,
                      requires { Cell::kOutputGate; }, true});
    });
    return all;
  }();
  return *cells;
}

CellFacts find_cell(std::string_view name) {
  for (const CellFacts& cell : all_cells()) {
    if (cell.name == name) return cell;
  }
  int place;
  if (const auto* const own = compiled::find(name, place)) {
    return {CellKind(compiled::kFirst + place),
            own->name,
            own->gates,
            own->states,
            own->saved,
            own->additive,
            false,
            own->is_elementwise,
            own->unit_weights,
            false,
            false,
            own->whole_rows};
  }
  std::string known;
  for (const CellFacts& cell : all_cells()) (known += known.empty() ? "" : ", ") += cell.name;
  TORCH_CHECK_VALUE(false, "fastcells: unknown cell '", std::string(name), "', known are ", known);
}

at::ScalarType Layer::arithmetic() const {
  return storage == Storage::kFloat64 ? at::kDouble : at::kFloat;
}

Rows Layer::rows(int64_t direction) const {
  return {lengths.defined() ? lengths.const_data_ptr<int64_t>() : nullptr,
          resets.defined() ? resets.const_data_ptr<bool>() : nullptr, sizes.T, sizes.B,
          direction == 1};
}

void check_optional(const char* op, const char* name, const char* letters, const at::Tensor& tensor,
                    at::IntArrayRef shape, at::ScalarType dtype, const at::Tensor& input) {
  if (!tensor.defined()) return;
  check_shape(op, name, letters, tensor, shape);
  check_dtype(op, name, tensor, dtype);
  check_device(op, name, tensor, input.device(), "input");
}

namespace {

std::string known_names() {
  std::string known;
  PerWeight<int> all;
  for_each_weight(all,
                  [&](const char* name, int) { (known += known.empty() ? "" : ", ") += name; });
  return known;
}

// What only some layers have: no elementwise cell, and no narrow or projected one.
void check_row_names(const char* op, const DirectionWeights& w, const CellFacts& cell) {
  const bool has_units = !cell.is_elementwise && cell.unit_weights > 0;
  TORCH_CHECK_VALUE(w.unit_weights.defined() == has_units &&
                        !(cell.whole_rows && (w.weight_hr.defined() || w.scale_ih.defined())),
                    op, ": names of a ", cell.name,
                    has_units ? " must hold unit_weights, " : " hold no unit_weights, ",
                    "and no projection or narrow weights beside them");
  const bool has_norm = normalises_products(w), norms_c = normalises_c(w);
  if (!has_norm && !norms_c && !w.norm_c_bias.defined() && !w.noise.defined()) return;
  const bool is_compiled = compiled::is_compiled(cell.kind);
  TORCH_CHECK_VALUE(!is_compiled || cell.whole_rows, op, ": ", cell.name,
                    " was compiled without the kernels of norms and noise");
  TORCH_CHECK_VALUE(!cell.is_elementwise && !w.weight_hr.defined() && !w.scale_ih.defined(), op,
                    ": norms and noise are of dense cells without a projection or narrow weights");
  TORCH_CHECK_VALUE(
      (is_compiled || w.norm_ih.defined() == w.norm_hh.defined()) &&
          !((w.norm_ih.defined() || w.norm_hh.defined()) && w.norm_gates.defined()),
      op, ": names must hold norm_ih and norm_hh together, or norm_gates, or none of them");
  TORCH_CHECK_VALUE(!w.norm_gates.defined() || (cell.additive && !is_compiled), op,
                    ": norm_gates is of a cell whose ",
                    "gates take the sum of both products, not of a ", cell.name);
  TORCH_CHECK_VALUE(!cell.two_products, op, ": a ", cell.name, " takes no norms and no noise");
  TORCH_CHECK_VALUE(!norms_c || cell.has_output_gate, op,
                    ": norm_c and norm_carried_c are of an lstm, not of a ", cell.name);
  TORCH_CHECK_VALUE(
      !(w.norm_c.defined() && w.norm_carried_c.defined()) && (norms_c || !w.norm_c_bias.defined()),
      op, ": names must hold norm_c or norm_carried_c, and norm_c_bias beside one");
}

// The weights of one direction under their names. Throws for a name that is unknown or comes twice.
DirectionWeights named_weights(const char* op, at::TensorList list, const WeightNames& names,
                               const CellFacts& cell) {
  DirectionWeights weights;
  for (size_t k = 0; k < names.size(); ++k) {
    at::Tensor* const place = find_weight(weights, names[k]);
    TORCH_CHECK_VALUE(place && !place->defined(), op, ": names must be different ones of ",
                      known_names(), ", got '", names[k], place ? "' twice" : "'");
    *place = list[k];
  }
  check_row_names(op, weights, cell);
  if (cell.is_elementwise) {
    bool fits = weights.weight_ih.defined() &&
                weights.weight_hh.defined() == (cell.unit_weights > 0) &&
                (!weights.skip_scale.defined() || cell.reads_input);
    for (const at::Tensor* other :
         {&weights.bias_hh, &weights.weight_hr, &weights.scale_ih, &weights.scale_hh}) {
      fits = fits && !other->defined();
    }
    TORCH_CHECK_VALUE(fits, op, ": names of a ", cell.name, " must be weight_ih",
                      cell.unit_weights > 0 ? ", weight_hh" : "", " and, or not, bias_ih",
                      cell.reads_input ? " and skip_scale" : "", ", got ", c10::Join(", ", names));
    return weights;
  }
  TORCH_CHECK_VALUE(!weights.skip_scale.defined(), op, ": a ", cell.name,
                    " has no skip_scale, which is of a cell that reads its input as it is");
  TORCH_CHECK_VALUE(weights.weight_ih.defined() && weights.weight_hh.defined() &&
                        weights.bias_ih.defined() == weights.bias_hh.defined(),
                    op, ": names must hold weight_ih and weight_hh, and bias_ih and bias_hh or ",
                    "neither, got ", c10::Join(", ", names));
  return weights;
}

// The dtype of the matrices: the input's, or beside a float32 input on a CPU bfloat16, or int8 with
// scales.
at::ScalarType check_quantized(const char* op, const DirectionWeights& w, const at::Tensor& input,
                               int64_t rows, bool is_rowwise) {
  const at::ScalarType dtype = w.weight_hh.scalar_type();
  const bool has_scales = w.scale_ih.defined() || w.scale_hh.defined();
  const bool may_be_narrow = input.scalar_type() == at::kFloat && input.is_cpu() && !is_rowwise;
  if (!has_scales) return may_be_narrow && dtype == at::kBFloat16 ? dtype : input.scalar_type();
  TORCH_CHECK(w.scale_ih.defined() && w.scale_hh.defined() && dtype == at::kChar && may_be_narrow &&
                  !w.weight_hr.defined(),
              op,
              ": scale_ih and scale_hh go together, with weights of int8, a float32 input on a ",
              "CPU and no projection, got weights of ", dtype, ", an input of ",
              input.scalar_type(), " on ", input.device());
  check_shape(op, "scale_ih", "(G*H,)", w.scale_ih, {rows});
  check_shape(op, "scale_hh", "(G*H,)", w.scale_hh, {rows});
  return dtype;
}

// Of an elementwise cell: vectors in the place of W_hh.
void check_unit_weights(const char* op, const DirectionWeights& w, const CellFacts& cell,
                        const at::Tensor& input, int64_t directions) {
  TORCH_CHECK(w.weight_ih.dim() == 2, op, ": weight_ih must have shape (G*H, I), got ",
              shape_text(w.weight_ih.sizes()));
  const int64_t rows = w.weight_ih.size(0), I = input.size(2), H = rows / cell.gates;
  TORCH_CHECK(rows % cell.gates == 0, op, ": weight_ih of a ", cell.name, " must have ", cell.gates,
              "*H rows, got ", rows);
  check_shape(op, "weight_ih", "(G*H, I)", w.weight_ih, {rows, I});
  if (w.weight_hh.defined()) {
    check_shape(op, "weight_hh", "(V*H,)", w.weight_hh, {cell.unit_weights * H});
  }
  if (w.bias_ih.defined()) check_shape(op, "bias_ih", "(G*H,)", w.bias_ih, {rows});
  if (w.skip_scale.defined()) check_shape(op, "skip_scale", "(H,)", w.skip_scale, {H});
  TORCH_CHECK(!cell.reads_input || I == H || I == directions * H, op, ": a ", cell.name,
              " reads its input as it is, which must have H = ", H, " columns",
              directions == 2 ? ", or D*H" : "", ", got ", I);
}

void check_noise(const char* op, const at::Tensor& noise) {
  check_shape(op, "noise", "(5,)", noise, {Noise::kCount});
  check_dtype(op, "noise", noise, at::kDouble);
  TORCH_CHECK(noise.is_cpu() && noise.is_contiguous(), op,
              ": noise must be contiguous on the CPU, got ", noise.device());
  const auto* const x = noise.const_data_ptr<double>();
  const bool fits =
      x[0] >= 0 && x[0] < 9007199254740992.0 &&
      std::all_of(x + 1, x + Noise::kCount, [](double p) { return p >= 0 && p <= 1; });
  TORCH_CHECK_VALUE(fits, op, ": noise must hold a seed in 0 .. 2^53 - 1 and probabilities, got ",
                    c10::Join(", ", std::vector<double>(x, x + Noise::kCount)));
}

DirectionWeights check_weights(const char* op, DirectionWeights weights, const CellFacts& cell,
                               const at::Tensor& input, int64_t directions) {
  if (cell.is_elementwise) {
    check_unit_weights(op, weights, cell, input, directions);
    for_each_weight(weights, [&](const char* name, at::Tensor& weight) {
      if (!weight.defined()) return;
      check_dtype(op, name, weight, input.scalar_type());
      check_device(op, name, weight, input.device(), "input");
      weight = weight.contiguous();
    });
    return weights;
  }
  const at::Tensor &weight_ih = weights.weight_ih, &weight_hh = weights.weight_hh;
  const at::Tensor &bias_ih = weights.bias_ih, &weight_hr = weights.weight_hr;
  TORCH_CHECK(weight_ih.dim() == 2 && weight_hh.dim() == 2, op,
              ": weight_ih and weight_hh must have shapes (G*H, I) and (G*H, P), got ",
              shape_text(weight_ih.sizes()), " and ", shape_text(weight_hh.sizes()));
  const int64_t rows = weight_ih.size(0), I = input.size(2), P = weight_hh.size(1);
  TORCH_CHECK(rows % cell.gates == 0, op, ": weight_ih of a ", cell.name, " must have ", cell.gates,
              "*H rows, got ", rows);
  const int64_t H = rows / cell.gates;
  check_shape(op, "weight_ih", "(G*H, I)", weight_ih, {rows, I});
  check_shape(op, "weight_hh", "(G*H, P)", weight_hh, {rows, weight_hr.defined() ? P : H});
  if (bias_ih.defined()) {
    check_shape(op, "bias_ih", "(G*H,)", bias_ih, {rows});
    check_shape(op, "bias_hh", "(G*H,)", weights.bias_hh, {rows});
  }
  if (weights.unit_weights.defined()) {
    check_shape(op, "unit_weights", "(V*H,)", weights.unit_weights, {cell.unit_weights * H});
  }
  for_each_weight(weights, [&](const std::string_view name, const at::Tensor& weight) {
    if (!weight.defined() || !name.starts_with("norm_")) return;
    const bool is_of_c = name.starts_with("norm_c");
    check_shape(op, name.data(), is_of_c ? "(H,)" : "(G*H,)", weight, {is_of_c ? H : rows});
  });
  if (weight_hr.defined()) {
    TORCH_CHECK(cell.states == 2 && !cell.whole_rows, op, ": a projection needs an lstm, got a ",
                cell.name);
    check_shape(op, "weight_hr", "(P, H)", weight_hr, {P, H});
  }
  const at::ScalarType narrow =
      check_quantized(op, weights, input, rows, takes_whole_rows(cell, weights));
  for_each_weight(weights, [&](const char* name, at::Tensor& weight) {
    if (!weight.defined()) return;
    if (std::string_view(name) == "noise") return check_noise(op, weight);
    const bool is_matrix = std::string_view(name).starts_with("weight_");
    check_dtype(op, name, weight, is_matrix ? narrow : input.scalar_type());
    check_device(op, name, weight, input.device(), "input");
    weight = weight.contiguous();
  });
  return weights;
}

// A compiled cell has the kernels that were loaded: of a device, and of some storages.
bool has_kernels(const CellFacts& cell, Storage storage, const at::Tensor& input) {
  if (!compiled::is_compiled(cell.kind)) return true;
#ifdef FASTCELLS_WITH_CUDA
  if (input.is_cuda()) return compiled::has_image(cell.kind, storage);
#endif
  return input.is_cpu() && compiled::find(cell.kind, storage);
}
void check_compiled(const char* op, const CellFacts& cell, Storage storage,
                    const at::Tensor& input) {
  TORCH_CHECK_NOT_IMPLEMENTED(has_kernels(cell, storage, input), op, ": ", cell.name,
                              " has no kernels for ", input.scalar_type(), " on ", input.device());
}

at::Tensor contiguous_or_undefined(const OptionalTensor& tensor) {
  return tensor && tensor->defined() ? dense(*tensor) : at::Tensor();
}

}  // namespace

WeightNames split_names(std::string_view names) {
  WeightNames split;
  for (size_t start = 0; start < names.size();) {
    const size_t end = std::min(names.find(' ', start), names.size());
    split.push_back(names.substr(start, end - start));
    start = end + 1;
  }
  return split;
}

Layer check_layer(const char* op, const LayerArguments& a) {
  const int64_t D = a.directions;
  TORCH_CHECK_VALUE(D == 1 || D == 2, op, ": directions must be 1 or 2, got ", D);
  TORCH_CHECK(a.input.dim() == 3, op, ": input must have shape (T, B, I), got ",
              shape_text(a.input.sizes()));
  const size_t count = a.names.size();
  TORCH_CHECK(a.weights.size() == D * count, op, ": weights must hold ", c10::Join(", ", a.names),
              " for each of ", D, " directions, got ", a.weights.size(), " tensors");
  Layer layer;
  layer.cell = find_cell(a.cell);
  layer.storage = storage_of(op, a.input.scalar_type());
  check_compiled(op, layer.cell, layer.storage, a.input);
  layer.input = dense(a.input);
  for (int64_t d = 0; d < D; ++d) {
    layer.weights.push_back(
        check_weights(op, named_weights(op, a.weights.slice(d * count, count), a.names, layer.cell),
                      layer.cell, a.input, D));
    TORCH_CHECK(layer.weights[d].weight_ih.sizes() == layer.weights[0].weight_ih.sizes() &&
                    (layer.cell.is_elementwise ||
                     layer.weights[d].weight_hh.sizes() == layer.weights[0].weight_hh.sizes()),
                op, ": both directions must have weights of the same shapes");
  }
  LayerSizes& s = layer.sizes;
  s.T = a.input.size(0), s.B = a.input.size(1), s.I = a.input.size(2), s.D = D;
  s.G = layer.cell.gates, s.H = layer.weights[0].weight_ih.size(0) / s.G;
  s.N = layer.cell.states - 1;
  s.P = layer.cell.is_elementwise ? s.H : layer.weights[0].weight_hh.size(1);
  // The products as they come, where they are normalised.
  if (layer.is_normalised()) {
    s.saved = (layer.weights[0].norm_gates.defined() ? 1 : 2) * s.G;
  } else {
    s.saved = layer.cell.saved + (layer.is_projected() ? 1 : 0);
  }
  TORCH_CHECK(!(a.c_0 && a.c_0->defined()) || layer.cell.has_c(), op, ": a ", layer.cell.name,
              " has no cell state, but c_0 was given");
  layer.h_0 = contiguous_or_undefined(a.h_0);
  layer.c_0 = contiguous_or_undefined(a.c_0);
  layer.lengths = contiguous_or_undefined(a.lengths);
  layer.resets = contiguous_or_undefined(a.resets);
  const auto dtype = a.input.scalar_type();
  check_optional(op, "h_0", "(D, B, P)", layer.h_0, {D, s.B, s.P}, dtype, a.input);
  check_optional(op, "c_0", s.c_letters(), layer.c_0, {D, s.B, s.c()}, dtype, a.input);
  check_optional(op, "lengths", "(B,)", layer.lengths, {s.B}, at::kLong, a.input);
  check_optional(op, "resets", "(T, B)", layer.resets, {s.T, s.B}, at::kBool, a.input);
  check_lengths_in_range(op, "lengths", layer.lengths, s.T, "T");
  return layer;
}

}  // namespace fastcells
