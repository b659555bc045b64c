// The calls that both tests of the CUDA attention kernels make: whole tiles and sizes that miss
// them, rows of whole pieces and others, every kind of mask, windows with keys that nobody sees.
//
// check.operator()<T, kWidth>(case, repeats) runs the kernels of one width. Repeats are under
// another order of threads, and must be bit-equal.
#pragma once
#include "cuda_attention_problem.h"

namespace fastcells {

inline AttentionCase sized(std::int64_t B, std::int64_t N, std::int64_t Nk, std::int64_t Tq,
                           std::int64_t Tk, std::int64_t E, std::int64_t Ev, unsigned seed) {
  AttentionCase c{B, N, Nk, Tq, Tk, E, Ev};
  c.seed = seed;
  return c;
}

template <class Check>
bool check_float16(const Check& check) {
  using T = __half;
  bool ok = check.template operator()<T, 64>(sized(1, 1, 1, 129, 65, 64, 64, 1), true);
  AttentionCase c = sized(1, 4, 2, 35, 37, 20, 9, 2);
  c.has_weights = c.heads_inside = true;
  ok &= check.template operator()<T, 64>(c, false);
  c = sized(3, 2, 2, 18, 70, 24, 16, 22);
  c.has_lengths = c.has_wild_lengths = c.has_weights = true;
  ok &= check.template operator()<T, 64>(c, false);
  // Keys on both sides that nobody sees.
  c = sized(1, 2, 1, 20, 120, 16, 16, 3);
  c.left = 3, c.right = 5, c.offset = 50, c.dropout = 0.4, c.has_weights = c.heads_inside = true;
  ok &= check.template operator()<T, 64>(c, true);
  c = sized(3, 1, 1, 3, 7, 8, 8, 4);
  c.mask = MaskKind::kAdded, c.mask_query = false, c.has_lengths = true, c.left = 4, c.right = 0;
  c.offset = 2, c.dropout = 0.3, c.has_weights = true;
  ok &= check.template operator()<T, 64>(c, true);
  c = sized(2, 2, 1, 37, 40, 16, 24, 20);
  c.mask = MaskKind::kAddedWide, c.mask_head = false, c.has_low_mask = c.has_weights = true;
  ok &= check.template operator()<T, 64>(c, true);
  c = sized(1, 1, 1, 40, 33, 128, 72, 5);
  c.mask = MaskKind::kAdded, c.right = 0;
  return check.template operator()<T, 128>(c, false) && ok;
}

template <class Check>
bool check_bfloat16(const Check& check) {
  using T = __nv_bfloat16;
  AttentionCase c = sized(2, 2, 2, 9, 41, 32, 48, 6);
  c.mask = MaskKind::kBool, c.mask_head = false, c.has_lengths = true, c.right = 0, c.offset = 30;
  c.softcap = 1.5, c.has_weights = true;
  bool ok = check.template operator()<T, 64>(c, false);
  // Queries on both sides that see no key: those that do are the last of a tile to the first of
  // one.
  c = sized(1, 1, 1, 90, 30, 16, 16, 7);
  c.left = 4, c.right = 0, c.offset = -31, c.dropout = 0.2, c.scale = -0.4;
  ok &= check.template operator()<T, 64>(c, false);
  c = sized(1, 2, 1, 2, 33, 64, 3, 8);
  c.mask = MaskKind::kAdded, c.mask_batch = c.mask_key = false, c.softcap = 2, c.scale = -0.3;
  ok &= check.template operator()<T, 64>(c, false);
  c = sized(1, 1, 1, 3, 19, 16, 16, 21);
  c.mask = MaskKind::kAddedWide, c.mask_query = false, c.softcap = 2, c.right = 0, c.offset = 9;
  ok &= check.template operator()<T, 64>(c, false);
  c = sized(1, 1, 1, 17, 35, 136, 256, 9);
  c.mask = MaskKind::kAdded, c.dropout = 0.2, c.has_weights = true;
  return check.template operator()<T, 256>(c, false) && ok;
}

template <class Check>
bool check_float32(const Check& check) {
  AttentionCase c = sized(1, 2, 1, 18, 43, 64, 52, 10);
  c.mask = MaskKind::kBool, c.mask_batch = false, c.right = 1, c.offset = 20, c.dropout = 0.5;
  c.has_weights = true;
  bool ok = check.template operator()<float, 64>(c, false);
  c = sized(1, 1, 1, 4, 9, 7, 64, 11);
  c.mask = MaskKind::kAdded, c.softcap = 3, c.has_weights = c.heads_inside = true;
  ok &= check.template operator()<float, 64>(c, false);
  c = sized(1, 1, 1, 3, 33, 128, 100, 12);
  c.mask = MaskKind::kAdded, c.has_low_mask = true;
  ok &= check.template operator()<float, 128>(c, false);
  c = sized(1, 1, 1, 3, 19, 200, 256, 13);
  c.mask = MaskKind::kAdded, c.has_weights = true;
  return check.template operator()<float, 256>(c, false) && ok;
}

// Nothing there, of one dimension or another.
template <class Check>
bool check_empty(const Check& check) {
  AttentionCase c = sized(1, 1, 1, 2, 0, 8, 8, 14);
  bool ok = check.template operator()<__half, 64>(c, false);
  c = sized(1, 1, 1, 0, 2, 8, 8, 15);
  c.mask = MaskKind::kAdded, c.mask_query = false;
  ok &= check.template operator()<__half, 64>(c, false);
  c = sized(0, 1, 1, 2, 2, 8, 8, 16);
  c.mask = MaskKind::kAdded, c.mask_batch = false;
  ok &= check.template operator()<__half, 64>(c, false);
  ok &= check.template operator()<__half, 64>(sized(1, 1, 1, 2, 3, 0, 4, 17), false);
  return check.template operator()<__half, 64>(sized(1, 1, 1, 2, 3, 4, 0, 18), false) && ok;
}

// All of them, with what else there is to check; for main().
template <class Check>
int run_checks(const Check& check, bool ok) {
  ok &= check_float16(check);
  ok &= check_bfloat16(check);
  ok &= check_float32(check);
  return check_empty(check) && ok ? 0 : 1;
}

}  // namespace fastcells
