// Which kernels an additive call runs, in which order. run(blocks, shared_bytes, kernel, args)
// launches one, with kThreads threads a block: additive.cu's on a stream, the tests' under the
// emulator.
#pragma once
#include "attention/cuda/additive/backward.cuh"
#include "attention/cuda/additive/few_queries.cuh"
#include "attention/cuda/additive/forward.cuh"
#include "attention/cuda/additive/product.cuh"
#include "attention/cuda/additive/softmax.cuh"

namespace fastcells::additive {

template <class Product, class Args, class Run>
void run_product(const Args& args, const Run& run) {
  const std::int64_t blocks = tiles(Product::rows(args)) * tiles(Product::columns(args));
  run(args.B * blocks, kProductBytes, product_kernel<Product>, args);
}
template <class Pairs, class Args, class Run>
void run_pairs(const Args& args, const Run& run) {
  run(args.B * args.Tq * tiles(args.Tk, kPairKeys), 0, pair_kernel<Pairs>, args);
}

template <class T, class Run>
void run_weights(const cuda::AdditiveForwardArgs& args, const Run& run) {
  if (args.Tq < kFewQueries) {
    run_pairs<ScorePairs<T>>(args, run);
  } else {
    run(args.B * tiles(args.Tq) * tiles(args.Tk), ScoreTile<T>::kSharedBytes, score_kernel<T>,
        args);
  }
  run(tiles(args.B * args.Tq, kWarps), 0, weight_kernel<T>, args);
}

template <class T, class Run>
void run_forward(const cuda::AdditiveForwardArgs& args, const Run& run) {
  run_weights<T>(args, run);
  if (args.Tq < kFewQueries) {
    run(args.B * args.Tq * tiles(args.Ev, kStepColumns), kStepOutputBytes, step_output_kernel<T>,
        args);
  } else {
    run_product<OutputProduct<T>>(args, run);
  }
}

template <class Traits, class Run>
void run_unit_gradient(const cuda::AdditiveBackwardArgs& args, const Run& run) {
  const std::int64_t own = tiles(Traits::kOfKeys ? args.Tk : args.Tq, Traits::kOwn);
  run(args.B * own * tiles(args.E, kLanes), UnitGradient<Traits>::kSharedBytes,
      unit_gradient_kernel<Traits>, args);
}

template <class T, class Run>
void run_backward(const cuda::AdditiveBackwardArgs& args, const Run& run) {
  const bool has_few_queries = args.Tq < kFewQueries;
  if (!args.has_weights) {
    cuda::AdditiveForwardArgs again{};
    static_cast<AttentionArgs&>(again) = args;
    again.signed_weights = args.signed_weights;
    run_weights<T>(again, run);
  }
  if (has_few_queries) {
    run_pairs<WeightGradientPairs<T>>(args, run);
  } else {
    run_product<WeightGradientProduct<T>>(args, run);
  }
  run(tiles(args.B * args.Tq, kWarps), 0, score_gradient_kernel<T>, args);
  run_product<ValueGradientProduct<T>>(args, run);
  if (args.d_mask) {
    const MaskShape shape(args);
    if (shape.rows() < kWarps) {
      run(tiles(shape.count(), kThreads), 0, mask_gradient_kernel<false>, args);
    } else {
      run(tiles(shape.count(), kLanes), kThreads * 4, mask_gradient_kernel<true>, args);
    }
  }
  run_unit_gradient<KeyGradient<T>>(args, run);
  if (has_few_queries) {
    run_unit_gradient<FewQueryGradient<T>>(args, run);
  } else {
    run_unit_gradient<QueryGradient<T>>(args, run);
  }
}

}  // namespace fastcells::additive
