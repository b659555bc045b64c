#include "recurrent/loop.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "cpu/team.h"
#include "op_scope.h"

namespace fastcells::loop {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Edge;
using torch::autograd::get_current_node;
using torch::autograd::Node;
using torch::autograd::variable_list;

using NodePointer = decltype(get_current_node());  // std's or c10's, by the version of torch
using WeakNode = std::conditional_t<std::is_same_v<NodePointer, std::shared_ptr<Node>>,
                                    std::weak_ptr<Node>, c10::weak_intrusive_ptr<Node>>;
using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

// The sums under way, one for each shared node and run of autograd, to which they belong: they go
// with it when it is over, or has failed.
class Gathering {
 public:
  // The sums of this node in the run that is under way.
  template <class Make>
  StepSums* find(const NodePointer& node, const Make& make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = entry_of(node);
    if (entry != entries_.end()) return entry->sums.lock().get();
    std::erase_if(entries_, [](const Entry& old) { return old.sums.expired(); });
    const std::shared_ptr<StepSums> sums = make();
    // What a callback holds lives as long as its run.
    torch::autograd::Engine::get_default_engine().queue_callback([sums] {});
    entries_.push_back({node.get(), torch::autograd::get_current_graph_task_id(), sums});
    return sums.get();
  }
  // The same, no longer to be found; nullptr where there are none.
  std::shared_ptr<StepSums> take(const NodePointer& node) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = entry_of(node);
    if (entry == entries_.end()) return nullptr;
    const std::shared_ptr<StepSums> sums = entry->sums.lock();
    entries_.erase(entry);
    return sums;
  }

 private:
  struct Entry {
    const Node* node;
    int run;
    std::weak_ptr<StepSums> sums;
  };
  std::vector<Entry>::iterator entry_of(const NodePointer& node) {
    const int run = torch::autograd::get_current_graph_task_id();
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.node == node.get() && entry.run == run;
    });
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

Gathering& gathering() {
  static Gathering gathering;
  return gathering;
}

// ---- the node ----

struct SharedWeights : torch::autograd::Function<SharedWeights> {
  // The outputs tell the node shape and dtype of the gradients that it gets, and are let go.
  static variable_list forward(AutogradContext* context, at::TensorList weights) {
    context->set_materialize_grads(false);
    variable_list outputs;
    for (const at::Tensor& weight : weights) outputs.push_back(weight.detach());
    return outputs;
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) {
    variable_list found = grads;
    const NodePointer node = get_current_node();
    if (const std::shared_ptr<StepSums> sums = node ? gathering().take(node) : nullptr) {
      found = sums->take();
      for (size_t k = 0; k < found.size(); ++k) {
        found[k] =
            found[k].to(c10::typeMetaToScalarType(node->input_metadata(k).options().dtype()));
        if (grads[k].defined()) found[k] = grads[k].add(found[k]);
      }
    }
    return found;
  }
};

bool is_shared(Node* node) {
  return typeid(*node) == typeid(torch::autograd::CppNode<SharedWeights>);
}

// Whether autograd has run a shared node, and may not again. Its graph can outlive that: compiled
// autograd keeps some. Asking for what was saved is the one way to know.
bool is_over(Node& shared) {
  try {
    static_cast<torch::autograd::CppNode<SharedWeights>&>(shared).ctx_.get_saved_variables();
    return false;
  } catch (const c10::Error&) {
    return true;
  }
}

// ---- which steps are a loop ----

// A weight that needs a gradient, and what it is to the cell: one parameter may be several things.
struct Leaf {
  const at::Tensor* weight;
  char role;
};
using Leaves = c10::SmallVector<Leaf, 4>;

// No value for a weight that is neither of a product nor a bias.
std::optional<char> role_of(std::string_view name) {
  if (name == "weight_ih") return 0;
  if (name == "weight_hh") return 1;
  if (name == "bias_ih") return 2;
  return name == "bias_hh" ? std::optional<char>(3) : std::nullopt;
}

struct Loop {
  CellKind cell{};
  c10::SmallVector<std::pair<const c10::TensorImpl*, char>, 4> weights;  // as in Leaves
  std::optional<WeakTensor> kept;                                        // of the first step
  std::optional<WeakNode> shared;  // the node of those after it

  bool is_seen() const { return kept && !kept->expired(); }
  // nullptr before there is one, and after it has run.
  NodePointer shared_node() const {
    NodePointer node = shared ? shared->lock() : NodePointer();
    return node && !is_over(*node) ? node : NodePointer();
  }
};

// The loops of a thread, the latest in the place of the oldest.
struct RecentLoops {
  std::array<Loop, 16> loops;
  size_t next = 0;

  Loop* find(CellKind cell, const Leaves& leaves) {
    const auto is_same = [](const Leaf& leaf, const auto& known) {
      return leaf.weight->unsafeGetTensorImpl() == known.first && leaf.role == known.second;
    };
    const auto found = std::find_if(loops.begin(), loops.end(), [&](const Loop& loop) {
      return loop.cell == cell && std::equal(leaves.begin(), leaves.end(), loop.weights.begin(),
                                             loop.weights.end(), is_same);
    });
    return found == loops.end() ? nullptr : &*found;
  }
  Loop& replace(CellKind cell, const Leaves& leaves) {
    Loop& loop = loops[next];
    next = (next + 1) % loops.size();
    loop.cell = cell;
    loop.weights.clear();
    for (const Leaf& leaf : leaves) {
      loop.weights.emplace_back(leaf.weight->unsafeGetTensorImpl(), leaf.role);
    }
    return loop;
  }
};

// Whether the node still describes the weights: `weight.data = other` may change dtype and shape.
bool fits(Node& shared, const Leaves& leaves) {
  for (size_t k = 0; k < leaves.size(); ++k) {
    const auto& known = shared.input_metadata(k);
    if (known.options().dtype() != leaves[k].weight->dtype() ||
        !known.is_same_shape(*leaves[k].weight)) {
      return false;
    }
  }
  return true;
}

}  // namespace

void share_weights(const CellFacts& cell, const WeightNames& names, const at::Tensor& result,
                   const at::Tensor& kept, at::TensorList weights) {
  if (cell.is_elementwise || cell.whole_rows || cell.two_products) return;
  Leaves leaves;
  for (size_t k = 0; k < weights.size(); ++k) {
    const std::optional<char> role = role_of(names[k]);
    if (!role) return;
    if (!weights[k].requires_grad()) continue;
    if (!weights[k].is_leaf()) return;
    leaves.push_back({&weights[k], *role});
  }
  if (leaves.empty()) return;
  thread_local RecentLoops recent;
  Loop* loop = recent.find(cell.kind, leaves);
  NodePointer shared = loop ? loop->shared_node() : NodePointer();
  // The first step of a loop, or of the next after one that has run: also while the way back of an
  // older step is still to come, which may never be asked for.
  if (!shared && !(loop && !loop->shared && loop->is_seen())) {
    if (!loop) loop = &recent.replace(cell.kind, leaves);
    loop->kept.emplace(kept.getIntrusivePtr()), loop->shared.reset();
    return;
  }
  if (shared && !fits(*shared, leaves)) return;
  if (!shared) {
    variable_list inputs;
    for (const Leaf& leaf : leaves) inputs.push_back(*leaf.weight);
    shared = SharedWeights::apply(at::TensorList(inputs))[0].grad_fn();
    loop->shared.emplace(shared);
  }
  const NodePointer step = result.grad_fn();
  const size_t first_edge = step->num_outputs() - weights.size();
  uint32_t output = 0;
  for (size_t k = 0; k < weights.size(); ++k) {
    if (weights[k].requires_grad()) step->set_next_edge(first_edge + k, Edge(shared, output++));
  }
}

bool shares_weights(size_t weights) {
  const NodePointer step = get_current_node();
  if (!step) return false;
  const auto& edges = step->next_edges();
  const auto valid = std::find_if(edges.end() - std::ptrdiff_t(weights), edges.end(),
                                  [](const Edge& edge) { return edge.is_valid(); });
  return valid != edges.end() && is_shared(valid->function.get());
}

StepSums* find_sums(const Layer& layer, const WeightNames& names) {
  const NodePointer step = get_current_node();
  const size_t first_edge = step->num_outputs() - names.size();
  NodePointer shared;
  WeightNames needed;  // in the order of the shared node's outputs
  for (size_t k = 0; k < names.size(); ++k) {
    const Edge& edge = step->next_edge(first_edge + k);
    if (edge.is_valid()) shared = edge.function, needed.push_back(names[k]);
  }
  return gathering().find(shared, [&] { return std::make_shared<StepSums>(layer, needed); });
}

// ---- the sums ----

StepSums::StepSums(const Layer& layer, const WeightNames& names)
    : names_(names.begin(), names.end()) {
  DirectionWeights own = layer.weights[0];
  for (const std::string& name : names_) {
    const at::Tensor& weight = *find_weight(own, name);
    *find_weight(weights, name) =
        at::empty_like(weight, weight.options().dtype(layer.arithmetic()));
  }
}

bool StepSums::gathers(const LayerSizes& s) const {
  constexpr int64_t kFewRows = 32, kElementsThatStayInCache = 256 * 1024;
  return s.B < kFewRows && s.G * s.H * (s.I + s.H) > kElementsThatStayInCache;
}

void StepSums::gather(const StepRows& rows) {
  // What takes more memory is multiplied before the last step has come. Not much less: torch's
  // threads make the product, and wait actively after it, on the cores of those that run the steps.
  constexpr size_t kMostBytes = size_t(32) << 20;
  // Copies: until the product the caller may write to what it has given a step that is over.
  rows_.push_back({rows.dx_gates, rows.dg_gates, rows.x.clone(), rows.h.clone()});
  for (const at::Tensor& x : {rows.dx_gates, rows.dg_gates, rows.x, rows.h}) bytes_ += x.nbytes();
  if (bytes_ > kMostBytes) multiply();
}

void StepSums::multiply() {
  const OpScope scope(rows_[0].x);
  const cpu::SerialInForkedChild guard;
  const auto together = [&](at::Tensor StepRows::* part) {
    variable_list parts;
    for (const StepRows& rows : rows_) parts.push_back(rows.*part);
    return at::cat(parts);
  };
  const at::Tensor dx = together(&StepRows::dx_gates);
  const at::Tensor dg =
      rows_[0].dx_gates.is_same(rows_[0].dg_gates) ? dx : together(&StepRows::dg_gates);
  const auto add_product = [&](at::Tensor& sum, const at::Tensor& gates,
                               at::Tensor StepRows::* of) {
    if (!sum.defined()) return;
    const at::Tensor rows = together(of).to(gates.scalar_type());
    at::addmm_out(sum, sum, gates.t(), rows, /*beta=*/is_begun ? 1 : 0);
  };
  const auto add_rows = [&](at::Tensor& sum, const at::Tensor& gates) {
    if (!sum.defined()) return;
    is_begun ? sum.add_(gates.sum(0)) : sum.copy_(gates.sum(0));
  };
  add_product(weights.weight_ih, dx, &StepRows::x), add_rows(weights.bias_ih, dx);
  add_product(weights.weight_hh, dg, &StepRows::h), add_rows(weights.bias_hh, dg);
  rows_.clear();
  bytes_ = 0;
  is_begun = true;
}

std::vector<at::Tensor> StepSums::take() {
  if (!rows_.empty()) multiply();
  variable_list found;
  for (const std::string& name : names_) found.push_back(*find_weight(weights, name));
  return found;
}

}  // namespace fastcells::loop
