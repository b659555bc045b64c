// Attention calls on the card: their tensors, the kernels that they are made of, one by one, and
// the least that they can take.
#pragma once
#include <functional>

#include "timing.cuh"

#include "attention/cuda/additive/calls.cuh"
#include "attention/cuda/dot/backward_launch.cuh"
#include "attention/cuda/dot/forward_launch.cuh"

namespace fastcells {

// E is the width of values, too, and of an additive call the number of units.
struct CallShape {
  bool is_additive;
  std::int64_t B, N, Tq, Tk, E;
};

// What is asked for beside the plain call.
enum class Extra {
  kNothing,
  kCausal,      // aligned to the last key; of dot products
  kMask,        // bool, [B, 1, Tq, Tk], three of four keys true
  kBias,        // added, [B, N, Tq, Tk], with its gradient
  kSharedBias,  // added, [1, N, Tq, Tk], with its gradient
  kWeights,     // returned, with their gradient
};
inline const char* extra_name(Extra extra) {
  constexpr const char* kNames[] = {"", "causal", "mask", "bias", "shared bias", "weights"};
  return kNames[int(extra)];
}
constexpr bool is_bias(Extra extra) { return extra == Extra::kBias || extra == Extra::kSharedBias; }

// Pairs of a query and a key that it sees; masks leave out nothing.
inline double seen_pairs(const CallShape& s, Extra extra) {
  double pairs = 0;
  for (std::int64_t i = 0; i < s.Tq; ++i) {
    pairs +=
        double(extra == Extra::kCausal ? std::max<std::int64_t>(s.Tk - s.Tq + i + 1, 0) : s.Tk);
  }
  return pairs * double(s.B * s.N);
}

// ---- kernels, one by one ----

// A kernel as it is launched in a call.
struct Launch {
  std::string kernel;
  std::int64_t blocks;
  std::function<void(cudaStream_t)> run;
};
using Launches = std::vector<Launch>;

// "unit_gradient_kernel<UnitGradientTraits<float, true, 8, 1> >"
template <class Kernel>
std::string short_name(Kernel kernel) {
  std::string name = card::kernel_name(kernel);
  name = name.substr(0, name.find('('));
  for (const std::string word : {"void ", "fastcells::", "additive::"}) {
    for (std::size_t at; (at = name.find(word)) != std::string::npos;) name.erase(at, word.size());
  }
  return name;
}

// Takes note of the kernels that a call runs.
struct Recorder {
  Launches& launches;

  // As dot products run theirs,
  template <class Args>
  cudaError_t operator()(std::int64_t blocks, int threads, std::size_t shared_bytes,
                         void (*kernel)(Args), const Args& args) const {
    if (blocks == 0) return cudaSuccess;
    launches.push_back({short_name(kernel), blocks, [=](cudaStream_t stream) {
                          card::check(
                              launch_blocks(kernel, blocks, threads, shared_bytes, args, stream),
                              "a launch");
                        }});
    return cudaSuccess;
  }
  // and as additive scores do.
  template <class Args>
  void operator()(std::int64_t blocks, int shared_bytes, void (*kernel)(Args),
                  const Args& args) const {
    (*this)(blocks, additive::kThreads, std::size_t(shared_bytes), kernel, args);
  }
};

// ---- a call's tensors ----

template <class T>
class Call {
 public:
  Call(const CallShape& shape, Extra extra)
      : s(shape),
        extra(extra),
        queries(s.B * s.N * s.Tq),
        keys(s.B * s.N * s.Tk),
        scores(queries * s.Tk),
        query(queries * s.E, 1 / std::sqrt(float(s.E))),
        key(keys * s.E),
        value(keys * s.E),
        output(queries * s.E),
        d_output(queries * s.E),
        weights(extra == Extra::kWeights ? scores : 1),
        d_weights(extra == Extra::kWeights ? scores : 1),
        bias(is_bias(extra) ? mask_count() : 1),
        d_query(queries * s.E),
        d_key(keys * s.E),
        d_value(keys * s.E),
        mask(extra == Extra::kMask ? mask_count() : 1, 0.5f),
        seen(keys, 1.0f),
        logsumexp(2 * queries),
        delta(queries),
        d_bias(is_bias(extra) ? mask_count() : 1),
        units(s.E, 1 / std::sqrt(float(s.E))),
        signed_weights(s.is_additive ? scores : 1),
        d_scores(s.is_additive ? scores : 1),
        d_units(s.is_additive ? cuda::additive_parts(s.B, s.Tk) * s.E : 1) {}

  Launches forward() const {
    cuda::AdditiveForwardArgs a{};
    set(a);
    a.output = output.get(), a.logsumexp = logsumexp.get();
    a.weights = extra == Extra::kWeights ? weights.get() : nullptr;
    a.signed_weights = signed_weights.get();
    Launches launches;
    if (s.is_additive) {
      additive::run_forward<T>(a, Recorder{launches});
    } else {
      const AttentionForwardArgs& args = a;
      check(dispatch_width(args, [&](auto width) {
        return cuda::run_attention_forward<T, width.value>(args, Recorder{launches});
      }));
    }
    return launches;
  }
  Launches backward() const {
    cuda::AdditiveBackwardArgs a{};
    set(a);
    a.grad_output = rows(d_output.get(), s.Tq), a.output = rows(output.get(), s.Tq);
    a.grad_weights = extra == Extra::kWeights ? d_weights.get() : nullptr;
    a.logsumexp = logsumexp.get(), a.delta = delta.get();
    a.d_query = d_query.get(), a.d_key = d_key.get(), a.d_value = d_value.get();
    a.d_mask = is_bias(extra) ? d_bias.get() : nullptr;
    a.signed_weights = signed_weights.get(), a.has_weights = false;  // as the engine does it
    a.d_scores = d_scores.get(), a.d_units = d_units.get();
    Launches launches;
    if (s.is_additive) {
      additive::run_backward<T>(a, Recorder{launches});
    } else {
      const cuda::AttentionBackwardArgs& args = a;
      check(dispatch_width(args, [&](auto width) {
        return cuda::run_attention_backward<T, width.value>(args, Recorder{launches});
      }));
    }
    return launches;
  }
  // Of the tensors, each read or written once.
  double bytes(bool is_backward) const {
    const std::int64_t given = (queries + 2 * keys) * s.E, made = queries * s.E;
    std::int64_t numbers = is_backward ? 2 * given + 2 * made : given + made;
    if (extra == Extra::kWeights) numbers += scores;
    if (is_bias(extra)) numbers += mask_count();
    std::int64_t bytes = numbers * std::int64_t(sizeof(T));
    if (extra == Extra::kMask) bytes += mask_count();
    if (is_bias(extra) && is_backward) bytes += mask_count() * std::int64_t(sizeof(float));
    return double(bytes);
  }

  const CallShape s;
  const Extra extra;

 private:
  static void check(cudaError_t error) { card::check(error, "a width"); }
  HeadMatrix rows(const void* data, std::int64_t count) const {
    return {data, s.N * count * s.E, count * s.E, s.E};
  }
  std::int64_t mask_count() const {
    const std::int64_t batch = extra == Extra::kSharedBias ? 1 : s.B;
    return batch * (extra == Extra::kMask ? 1 : s.N) * s.Tq * s.Tk;
  }
  void set(AttentionArgs& a) const {
    a.B = s.B, a.N = a.Nk = s.N, a.Tq = s.Tq, a.Tk = s.Tk, a.E = a.Ev = s.E;
    a.query = rows(query.get(), s.Tq), a.key = rows(key.get(), s.Tk);
    a.value = rows(value.get(), s.Tk);
    a.scale = 1, a.left = -1, a.right = extra == Extra::kCausal ? 0 : -1;
    a.offset = extra == Extra::kCausal ? s.Tk - s.Tq : 0;
    a.units = units.get();
    if (extra != Extra::kMask && !is_bias(extra)) return;
    const std::int64_t matrix = s.Tq * s.Tk, heads = extra == Extra::kMask ? 0 : s.N;
    a.mask.kind = heads ? AttentionMask::Kind::kAdded : AttentionMask::Kind::kBool;
    a.mask.data = heads ? static_cast<const void*>(bias.get()) : mask.get();
    a.mask.key = 1, a.mask.query = s.Tk, a.mask.head = heads ? matrix : 0;
    a.mask.batch = extra == Extra::kSharedBias ? 0 : heads ? heads * matrix : matrix;
    a.seen = seen.get();
  }

  const std::int64_t queries, keys, scores;
  const Memory<T> query, key, value, output, d_output, weights, d_weights, bias;
  const Memory<T> d_query, d_key, d_value;
  const Memory<bool> mask, seen;
  const Memory<float> logsumexp, delta, d_bias, units, signed_weights, d_scores, d_units;
};

// ---- the least that a call can take ----

// What an H200 does, the first three a multiprocessor: products of mma.sync in 16 bits and in TF32
// and copies as micro.cu has measured them (benchmarks/results/nvidia-h200/2026-11-27/micro.json),
// and by its clock there (1.977 GHz) 128 instructions of a lane and 16 special functions.
struct Rates {
  double products = 4.81e12, products_tf32 = 2.40e12, instructions = 128 * 1.977e9;
  double specials = 16 * 1.977e9, bytes = 4.2e12;
};

struct Floor {
  double us;
  bool is_of_bytes;
};

// The longer of two times: of the operations that the result needs, nothing made twice, and of the
// tensors' bytes. Of dot products: the products (float32: three of TF32 for one) or a special
// function a pair. Of additive scores: instructions, of which a pair and unit takes what the inner
// loop takes (docs/kernels/attention-cuda-additive.md), or half a special function. Tensors that
// the L2 holds from call to call may be read in less.
template <class T>
Floor floor_of(const Call<T>& call, bool is_backward, int multiprocessors) {
  const Rates rates;
  const CallShape& s = call.s;
  const double pairs = seen_pairs(s, call.extra), elements = pairs * double(s.E);
  double operations = 0;
  if (s.is_additive) {
    // Backward: gradients of keys and queries; the products dW and dV.
    const double instructions = is_backward ? 6.7 + 5.8 + 2 : 3.9 + 1;
    const double specials = is_backward ? 1 : 0.5;
    operations = std::max(elements * instructions / rates.instructions,
                          elements * specials / rates.specials);
  } else {
    const double products = (is_backward ? 5 : 2) * 2 * elements;
    const double rate = sizeof(T) == 4 ? rates.products_tf32 / 3 : rates.products;
    operations = std::max(products / rate, pairs / rates.specials);
  }
  operations /= multiprocessors;
  const double bytes = call.bytes(is_backward) / rates.bytes;
  return {1e6 * std::max(operations, bytes), bytes > operations};
}

}  // namespace fastcells
