// Additive scores, s_ij = sum_d scale_d tanh(q_id + k_jd), of a panel of queries (lanes) and some
// keys (rows), and their gradients. Nothing of size Tq * Tk * D is held.
//
// tanh(q + k) = 1 - 2 r with r = 1 / (1 + e^2q e^2k): the exponentials are made once a block, and
// an element costs a multiply-add, a reciprocal and a multiply-add. Exponents are held to
// +-kFar, so that no product overflows. That is exact where tanh has its limit, that is unless one
// operand is beyond kFar and the other brings the sum back: such keys take tanh of the sum, as
// float64 does everywhere.
#pragma once
#include "cpu/simd/attention_product.h"
#include "cpu/simd/lane_sums.h"

namespace fastcells {
namespace {

// r = 1 / (1 + e^2x), so that tanh(x) = 1 - 2 r.
FC_INLINE Vector<float> half_minus_tanh(Vector<float> x) {
  const Vector<float> limit(20.0f);
  const Vector<float> held = select(x > limit, limit, larger(Vector<float>(-20.0f), x));
  return reciprocal(Vector<float>(1.0f) + polynomial::exp(held + held));
}
FC_INLINE Vector<double> half_minus_tanh(Vector<double> x) {
  return Vector<double>(0.5) - Vector<double>(0.5) * tanh(x);
}

template <class S>
struct Additive {
  using V = Vector<S>;
  static constexpr int L = V::kLanes, R = 2, P = R * L;
  static constexpr bool kFast = sizeof(S) == 4;
  static constexpr int kGroup = 4;                      // keys that are computed side by side
  static constexpr S kFar = S(21), kNear = S(21 - 11);  // beyond 11 the float tanh is its limit

  // How far the values of a key, or of a panel of queries, go; or that some are not finite.
  enum Reach : unsigned char { kWithinNear, kWithinFar, kBeyond, kNotFinite };
  static bool is_exact(Reach a, Reach b) {
    return kFast && a != kNotFinite && b != kNotFinite && !(a == kBeyond && b != kWithinNear) &&
           !(b == kBeyond && a != kWithinNear);
  }

  int64_t D;
  const S* scale;        // [D]
  const S* query;        // [D][P]
  const S* query_power;  // [D][P]: e^2q, or nullptr
  Reach query_reach;
  StridedRows<S> keys;     // [count][D]
  const S* key_power;      // [count, padded to groups][D]: e^2k
  const Reach* key_reach;  // [count, padded]
  int64_t count;

  // e^2x of `count` values that begin at a multiple of the lanes, and their reach.
  static Reach powers(const S* x, int64_t count, S* power) {
    S largest = 0;
    V finite(S(0));
    for (int64_t c = 0; c < count; c += L) {
      const V value = load_lanes<V>(x + c, count - c);
      if constexpr (kFast) {
        const V held = select(value > V(kFar), V(kFar), larger(V(-kFar), value));
        store_lanes(power + c, polynomial::exp(held + held), count - c);
      }
      finite = finite + (value - value);
      const V size = select(value < V(S(0)), V(S(0)) - value, value);
      for (int l = 0; l < L; ++l) largest = size.v[l] > largest ? size.v[l] : largest;
    }
    if (sum_of(finite) != S(0)) return kNotFinite;
    return largest > kFar ? kBeyond : largest > kNear ? kWithinFar : kWithinNear;
  }
  // A group's missing keys: any number that does no harm.
  static void pad(int64_t count, int64_t D, S* power, Reach* reach) {
    for (int64_t j = count; j % kGroup != 0; ++j) {
      for (int64_t d = 0; kFast && d < D; ++d) power[j * D + d] = S(1);
      reach[j] = kWithinNear;
    }
  }

  // Which keys of a group have exact powers beside these queries, a bit each. It is asked of each
  // key by itself: what one of them holds changes no bit of its neighbours.
  static constexpr unsigned kAll = (1u << kGroup) - 1;
  unsigned exact_keys(int64_t j) const {
    unsigned exact = 0;
    for (int m = 0; m < kGroup; ++m)
      exact |= unsigned(is_exact(query_reach, key_reach[j + m])) << m;
    return exact;
  }

  // out [count, padded to groups][P]
  void scores(S* out, int64_t stride) const {
    S total = 0;
    for (int64_t d = 0; d < D; ++d) total += scale[d];
    for (int64_t j = 0; j < count; j += kGroup) {
      const unsigned exact = kFast ? exact_keys(j) : 0;
      if constexpr (kFast) {
        if (exact != 0) fast_scores(j, V(total), out + j * stride, stride);
      }
      for (int64_t m = j; exact != kAll && m < at_most(count, j + kGroup); ++m) {
        if (!(exact >> (m - j) & 1)) exact_scores(m, out + m * stride);
      }
    }
  }

  // Adds to d_query [D][P], to d_key [groups][D][kGroup] and to d_scale [D][P]: of the queries and
  // keys without their factor 4 scale_d, and of the scale sum ds r for sum ds tanh.
  void gradients(const S* d_scores, int64_t stride, S* d_query, S* d_key, S* d_scale) const {
    for (int64_t j = 0; j < count; j += kGroup) {
      V d[kGroup][R];
      FC_UNROLL
      for (int m = 0; m < kGroup; ++m) {
        FC_UNROLL
        for (int r = 0; r < R; ++r) {
          d[m][r] = j + m < count ? V::load(d_scores + (j + m) * stride + r * L) : V(S(0));
        }
      }
      S* const to = d_key + j * D;
      const unsigned exact = kFast ? exact_keys(j) : 0;
      if (exact == kAll) {
        group_gradients<true>(j, exact, d, d_query, to, d_scale);
      } else {
        group_gradients<false>(j, exact, d, d_query, to, d_scale);
      }
    }
  }

 private:
  void exact_scores(int64_t j, S* out) const {
    const S* const key = keys.first + j * keys.stride;
    for (int r = 0; r < R; ++r) {
      V sum(S(0));
      for (int64_t d = 0; d < D; ++d) {
        sum = sum + V(scale[d]) * tanh(V::load(query + d * P + r * L) + V(key[d]));
      }
      sum.store(out + r * L);
    }
  }

  void fast_scores(int64_t j, V total, S* out, int64_t stride) const {
    const S* const key = key_power + j * D;
    V sum[kGroup][R];
    FC_UNROLL
    for (int m = 0; m < kGroup; ++m) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) sum[m][r] = V(S(0));
    }
    for (int64_t d = 0; d < D; ++d) {
      const V weight(scale[d]);
      V power[R];
      FC_UNROLL
      for (int r = 0; r < R; ++r) power[r] = V::load(query_power + d * P + r * L);
      FC_UNROLL
      for (int m = 0; m < kGroup; ++m) {
        const V of_key(key[m * D + d]);
        FC_UNROLL
        for (int r = 0; r < R; ++r) {
          V t(S(1));
          multiply_add(t, power[r], of_key);
          multiply_add(sum[m][r], weight, reciprocal(t));
        }
      }
    }
    FC_UNROLL
    for (int m = 0; m < kGroup; ++m) {
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        (total - (sum[m][r] + sum[m][r])).store(out + m * stride + r * L);
      }
    }
  }

  // A missing key's `gradient` is 0, and its operands are any. `exact`: the keys with exact powers,
  // all of them with kAllPowers.
  template <bool kAllPowers>
  void group_gradients(int64_t j, unsigned exact, const V (&gradient)[kGroup][R], S* d_query,
                       S* d_key, S* d_scale) const {
    for (int64_t d = 0; d < D; ++d) {
      V of_query[R], of_scale[R], of_key[kGroup];
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        of_query[r] = V::load(d_query + d * P + r * L);
        of_scale[r] = V::load(d_scale + d * P + r * L);
      }
      FC_UNROLL
      for (int m = 0; m < kGroup; ++m) {
        of_key[m] = V(S(0));
        FC_UNROLL
        for (int r = 0; r < R; ++r) {
          V half;
          bool has_power = false;
          if constexpr (kFast) {
            has_power = kAllPowers || (exact >> m & 1) != 0;
            V t(S(1));
            if (has_power) {
              multiply_add(t, V::load(query_power + d * P + r * L), V(key_power[(j + m) * D + d]));
              half = reciprocal(t);
            }
          }
          if (!has_power) {
            const int64_t key = at_most(j + m, count - 1);
            half = half_minus_tanh(V::load(query + d * P + r * L) +
                                   V(keys.first[key * keys.stride + d]));
            half = unless_zero(gradient[m][r], half);
          }
          const V slope = half - half * half;
          of_query[r] = of_query[r] + gradient[m][r] * slope;
          of_scale[r] = of_scale[r] + gradient[m][r] * half;
          of_key[m] = of_key[m] + gradient[m][r] * slope;
        }
      }
      FC_UNROLL
      for (int r = 0; r < R; ++r) {
        of_query[r].store(d_query + d * P + r * L);
        of_scale[r].store(d_scale + d * P + r * L);
      }
      add_sums(of_key, d_key + d * kGroup);
    }
  }
  FC_INLINE static void add_sums(const V (&x)[kGroup], S* to) {
    S sums[kGroup];
    sums_of(x, sums);
    for (int m = 0; m < kGroup; ++m) to[m] += sums[m];
  }
};

}  // namespace
}  // namespace fastcells
