// Softmax over scores that come in pieces: a running maximum and the sum of exponentials below it
// (Milakov and Gimelshein 2018, arXiv 1805.02867), on host and device. Torch-free.
//
// A is one row of scores, or a vector of rows (cpu/simd/vector.h). A score of minus infinity is a
// key that the row does not see; a row that sees none has sum 0.
#pragma once
#include <limits>

#include "math/exponentials.h"

namespace fastcells {

FC_HD float natural_log(float x) { return ::logf(x); }
FC_HD double natural_log(double x) { return ::log(x); }

template <class A, class S>
struct OnlineSoftmax {
  static constexpr S kNothing = -std::numeric_limits<S>::infinity();
  static constexpr S kLowest = std::numeric_limits<S>::lowest();

  A max, sum;

  FC_HD OnlineSoftmax() : max(kNothing), sum(S(0)) {}

  // Takes note of the largest score of the next piece. What was summed up so far, here and by the
  // caller, is to be multiplied by the result.
  FC_HD A raise(A piece_max) {
    const A before = max;
    max = select(piece_max > before, piece_max, before);
    const A factor = exp_below(before - reference());
    sum = sum * factor;
    return factor;
  }
  // What scores are measured from: the maximum, or 0 while there is none.
  FC_HD A reference() const { return select(max < A(kLowest), A(S(0)), max); }
  // 1 / sum, or 0 for a row that sees nothing.
  FC_HD A normaliser() const { return select(sum <= A(S(0)), A(S(0)), A(S(1)) / sum); }
  // The logsumexp is max + log_sum(), kept in its two parts: beside a maximum of -1e9, as a mask
  // may make it, the logarithm of the sum would be rounded away, and with it the weights on a way
  // back.
  FC_HD A log_sum() const { return select(sum <= A(S(0)), A(S(0)), natural_log(sum)); }
};

}  // namespace fastcells
