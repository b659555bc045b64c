// Tiles of rows in shared memory, and the products of a warp with them.
//
// A block owns kOwn rows (queries or keys), 16 * kTiles a warp, and passes over the others, kOthers
// at a time. A row of a tile is kWidth elements, zero past E or Ev, in pieces of 16 bytes: piece c
// of row r lies at c ^ r % 8, so that eight rows of one piece are in different banks.
//
// A step of a product over E is 32 bytes of a row, 16 elements of 16 bits or 8 of float32: either
// way one fragment of mma, and the words of both lie in the lanes as ldmatrix leaves them.
// Accumulators of own rows and others are operands as they are of a product over the others: the
// order of K is ours to choose, as long as both operands have it.
//
// Letters: attention/args.h. Lane l: g = l / 4 is a row of an accumulator, t = l % 4 two columns.
#pragma once
#include "attention/position.h"
#include "cuda/tf32.cuh"
#include "cuda/warp.cuh"

namespace fastcells {

constexpr std::int64_t tile_count(std::int64_t rows, int tile_rows) {
  return (rows + tile_rows - 1) / tile_rows;
}

// kSplit warps share 16 * kTiles own rows: each computes all scores of these, and what is summed up
// of its part of the columns, where one warp had not enough registers for it.
template <class T_, int kWidth_, int kTiles_, int kOthers_, int kStages_, int kRowWarps_,
          int kSplit_>
struct AttentionTraits {
  using T = T_;
  static constexpr int kWidth = kWidth_, kOthers = kOthers_, kStages = kStages_;
  static constexpr int kRowWarps = kRowWarps_, kSplit = kSplit_;
  static constexpr int M = kTiles_, N = kOthers / 8;
  static constexpr int kColumns = kWidth / 8 / kSplit;  // tiles of eight, of a warp
  static constexpr int kThreads = kRowWarps * kSplit * kLanes, kOwn = 16 * M * kRowWarps;
  static constexpr int kPieces = kWidth * int(sizeof(T)) / 16, kSteps = kPieces / 2;
  static constexpr int kOwnPieces = kOwn * kPieces, kOtherPieces = kOthers * kPieces;
};

// ---- from global memory to a tile ----

// Rows of one head, of `width` elements each.
template <class T>
struct HeadRows {
  static constexpr std::int64_t kPiece = 16 / sizeof(T);
  const T* data;
  std::int64_t stride;
  int width;
  bool has_pieces;   // rows are whole pieces, and lie at multiples of 16 bytes
  const bool* seen;  // by row, or nullptr: all; the others are zeros

  FC_DEVICE HeadRows(const HeadMatrix& m, std::int64_t b, std::int64_t n, std::int64_t width_,
                     const bool* seen_ = nullptr)
      : data(static_cast<const T*>(m.data) + b * m.batch + n * m.head),
        stride(m.row),
        width(int(width_)),
        seen(seen_) {
    has_pieces = (reinterpret_cast<std::uintptr_t>(data) % 16 | stride % kPiece |
                  std::int64_t(width) % kPiece) == 0;
  }
};

// Of the keys or values of one head.
template <class T>
FC_DEVICE HeadRows<T> key_rows(const AttentionArgs& a, const HeadMatrix& m, std::int64_t b,
                               std::int64_t n, std::int64_t width) {
  return {m, b, n, width, a.seen ? a.seen + (b * a.Nk + n) * a.Tk : nullptr};
}

// The first `count` elements of a piece, zeros behind them.
template <class T>
FC_DEVICE uint4 gather_piece(const T* from, int count) {
  using Word = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;
  const auto* const words = reinterpret_cast<const Word*>(from);
  unsigned piece[4] = {0, 0, 0, 0};
  FC_UNROLL
  for (int i = 0; i < int(16 / sizeof(T)); ++i) {
    const unsigned word = i < count ? unsigned(words[i]) : 0u;
    if constexpr (sizeof(T) == 2) {
      piece[i / 2] |= word << i % 2 * 16;
    } else {
      piece[i] = word;
    }
  }
  return {piece[0], piece[1], piece[2], piece[3]};
}

// Rows first .. first + kRows - 1 to a tile: zeros where they are not `valid` or not seen. They are
// there after a wait for copies and a barrier.
template <class Traits, int kRows>
FC_DEVICE void load_tile(ptx::Shared<uint4> tile, const HeadRows<typename Traits::T>& rows,
                         std::int64_t first, KeyRange valid) {
  constexpr int kPieces = Traits::kPieces, kPass = Traits::kThreads / kPieces;
  static_assert(kPass > 0 && kRows % kPass == 0);
  const int piece = int(threadIdx.x) % kPieces, row_0 = int(threadIdx.x) / kPieces;
  const int column = piece * int(rows.kPiece);
  const bool is_inside = column < rows.width;
  const bool is_whole =
      is_inside && !rows.seen && first >= valid.first && first + kRows <= valid.last;
  const auto is_valid = [&](std::int64_t r) {
    return is_inside && r >= valid.first && r < valid.last && (!rows.seen || rows.seen[r]);
  };
  const auto* from = rows.data + (first + row_0) * rows.stride + column;
  if (rows.has_pieces) {
    FC_UNROLL
    for (int i = 0; i < kRows / kPass; ++i) {
      const int r = row_0 + i * kPass;
      const auto to = tile + (r * kPieces + (piece ^ (r & 7)));
      if (is_whole || is_valid(first + r)) {
        ptx::copy_async(to, reinterpret_cast<const uint4*>(from));
      } else {
        to[0] = uint4{0, 0, 0, 0};
      }
      from += kPass * rows.stride;
    }
  } else {
    FC_ROLLED
    for (int r = row_0; r < kRows; r += kPass) {
      tile[r * kPieces + (piece ^ (r & 7))] =
          gather_piece(from, is_valid(first + r) ? rows.width - column : 0);
      from += kPass * rows.stride;
    }
  }
}

// Passes over tiles 0 .. count - 1. load(i, stage) has copies under way to a stage, settle(stage)
// brings what load kept in registers, use(i, stage) reads.
template <int kStages, class Load, class Settle, class Use>
FC_DEVICE void pass_over(int count, const Load& load, const Settle& settle, const Use& use) {
  constexpr int kAhead = kStages - 1;
  FC_ROLLED
  for (int i = -kAhead; i < count; ++i) {
    const int next = i + kAhead, stage = next % kStages;
    if (kAhead > 0) ptx::wait_copies<0>();
    __syncthreads();  // tile i is there, and all are done with the tile before
    if (next < count) {
      load(next, stage);
      ptx::commit_copies();
    }
    if (kAhead == 0) {
      settle(stage);
      ptx::wait_copies<0>();
      __syncthreads();
    }
    if (i >= 0) use(i, i % kStages);
    if (kAhead > 0 && next < count) settle(stage);
  }
}

// ---- fragments ----

// Words of an operand; float32 in two parts.
template <class T, int kWords>
struct Operand {
  unsigned high[kWords], low[sizeof(T) == 4 ? kWords : 1];

  FC_DEVICE void set(int i, unsigned word) {
    if constexpr (sizeof(T) == 4) {
      const SplitWord s = split(word);
      high[i] = s.high, low[i] = s.low;
    } else {
      high[i] = word;
    }
  }
};

template <class T>
FC_DEVICE void multiply(float (&d)[4], const Operand<T, 4>& a, const Operand<T, 2>& b) {
  if constexpr (sizeof(T) == 4) {
    ptx::mma_m16n8k8_tf32(d, a.low, b.high);
    ptx::mma_m16n8k8_tf32(d, a.high, b.low);
    ptx::mma_m16n8k8_tf32(d, a.high, b.high);
  } else {
    ptx::mma_m16n8k16<T>(d, a.high, b.high);
  }
}

FC_DEVICE unsigned word_of(float x) {
  unsigned word;
  memcpy(&word, &x, sizeof word);
  return word;
}

template <class Traits>
class TileReader {
  using T = typename Traits::T;
  static constexpr int P = Traits::kPieces, M = Traits::M, N = Traits::N;
  using Tile = ptx::Shared<uint4>;

 public:
  // Rows of `others` that a product over them takes at once.
  static constexpr int kDepth = 32 / int(sizeof(T));

  FC_DEVICE explicit TileReader(int lane)
      : lane_(lane),
        row_16_(lane % 16 * P),
        piece_16_((lane / 16) ^ (lane % 8)),
        row_8_((lane / 16 * 8 + lane % 8) * P),
        piece_8_((lane / 8 % 2) ^ (lane % 8)) {}

  // s [own rows from `row` on][others] = own others^T
  FC_DEVICE void multiply_rows(Tile own, int row, Tile others, float (&s)[M][N][4]) const {
    constexpr int kAtOnce = M > 1 ? 2 : 4;  // steps whose rows are asked for ahead
    FC_UNROLL
    for (int m = 0; m < M; ++m) {
      FC_UNROLL
      for (int n = 0; n < N; ++n) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
    }
    FC_ROLLED
    for (int first = 0; first < Traits::kSteps; first += kAtOnce) {
      FC_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        Operand<T, 4> a[M];
        FC_UNROLL
        for (int m = 0; m < M; ++m) {
          load<false>(own + (row + 16 * m) * P, row_16_, piece_16_, first + k, a[m]);
        }
        FC_UNROLL
        for (int n = 0; n < N; n += 2) {
          Operand<T, 2> b[2];
          load_pair<false>(others + 8 * n * P, row_8_, piece_8_, first + k, b);
          FC_UNROLL
          for (int m = 0; m < M; ++m) {
            multiply(s[m][n], a[m], b[0]);
            multiply(s[m][n + 1], a[m], b[1]);
          }
        }
      }
    }
  }

  // sums [own rows][columns] += weights [own rows][others] others, of one part of the columns
  FC_DEVICE void multiply_weights(const float (&weights)[M][N][4], Tile tile, int part,
                                  float (&sums)[M][Traits::kColumns][4]) const {
    const Tile others = tile + part * (P / Traits::kSplit);
    FC_UNROLL
    for (int j = 0; j < Traits::kOthers / kDepth; ++j) {
      Operand<T, 4> a[M];
      FC_UNROLL
      for (int m = 0; m < M; ++m) set_weights(weights[m], j, a[m]);
      FC_UNROLL
      for (int c = 0; c < Traits::kColumns; c += 2) {
        Operand<T, 2> b[2];
        if constexpr (sizeof(T) == 2) {
          load_pair<true>(others + j * 16 * P, row_16_, piece_16_, c / 2, b);
        } else {
          load_columns(others + j * 8 * P, c, b);
        }
        FC_UNROLL
        for (int m = 0; m < M; ++m) {
          multiply(sums[m][c], a[m], b[0]);
          multiply(sums[m][c + 1], a[m], b[1]);
        }
      }
    }
  }

 private:
  // 16 rows of pieces 2 * pair and the one behind it, as `row` and `piece` spread them over lanes.
  template <bool kTransposed>
  FC_DEVICE static void load_words(Tile rows, int row, int piece, int pair, unsigned (&words)[4]) {
    const int at = row + (piece ^ (2 * pair & 7)) + (2 * pair & ~7);
    const auto from = ptx::shared_cast<std::uint16_t>(rows + at);
    if constexpr (kTransposed) {
      ptx::load_transposed(words, from);
    } else {
      ptx::load_matrices(words, from);
    }
  }
  template <bool kTransposed>
  FC_DEVICE static void load(Tile rows, int row, int piece, int pair, Operand<T, 4>& a) {
    unsigned words[4];
    load_words<kTransposed>(rows, row, piece, pair, words);
    FC_UNROLL
    for (int i = 0; i < 4; ++i) a.set(i, words[i]);
  }
  template <bool kTransposed>
  FC_DEVICE static void load_pair(Tile rows, int row, int piece, int pair, Operand<T, 2> (&b)[2]) {
    unsigned words[4];
    load_words<kTransposed>(rows, row, piece, pair, words);
    FC_UNROLL
    for (int i = 0; i < 4; ++i) b[i / 2].set(i % 2, words[i]);
  }
  // float32, columns 8 * c .. 8 * c + 15 of eight rows: word t of K is row 2 * t, word t + 4 the
  // row behind it. All 32 lanes are in different banks.
  FC_DEVICE void load_columns(Tile rows, int c, Operand<T, 2> (&b)[2]) const {
    const int g = lane_ / 4, t = lane_ % 4;
    const auto words = ptx::shared_cast<unsigned>(rows);
    FC_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int r = 2 * t + i % 2, piece = (2 * (c + i / 2) + g / 4) ^ r;
      b[i / 2].set(i % 2, words[(r * P + piece) * 4 + g % 4]);
    }
  }

  // Others j * kDepth .. of the weights, in the order in which their rows are read.
  FC_DEVICE static void set_weights(const float (&w)[N][4], int j, Operand<T, 4>& a) {
    if constexpr (sizeof(T) == 2) {
      FC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float (&pair)[4] = w[2 * j + i / 2];
        a.set(i, ptx::pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]));
      }
    } else {
      a.set(0, word_of(w[j][0])), a.set(1, word_of(w[j][2]));
      a.set(2, word_of(w[j][1])), a.set(3, word_of(w[j][3]));
    }
  }

  const int lane_, row_16_, piece_16_, row_8_, piece_8_;
};

// ---- to global memory ----

// Elements `column` and the one behind it of a row of `width`; in one word where rows lie at
// multiples of two elements.
template <class T>
FC_DEVICE void store_pair(T* row, int column, int width, float x, float y, bool has_pairs) {
  if (has_pairs) {
    if (column >= width) return;
    T* const to = static_cast<T*>(__builtin_assume_aligned(row + column, 2 * sizeof(T)));
    if constexpr (sizeof(T) == 2) {
      const unsigned pair = ptx::pack<T>(x, y);
      memcpy(to, &pair, sizeof pair);
    } else {
      const uint2 pair{word_of(x), word_of(y)};
      memcpy(to, &pair, sizeof pair);
    }
  } else {
    if (column < width) row[column] = T(x);
    if (column + 1 < width) row[column + 1] = T(y);
  }
}

// factor * sums of one tile of rows, g and g + 8 of those from row `first` on, where they are below
// `rows`, of one part of the columns; to [rows][width].
template <class T, int kColumns>
FC_DEVICE void store_rows(const float (&sums)[kColumns][4], T* to, std::int64_t first,
                          std::int64_t rows, int width, int part, const float (&factor)[2]) {
  const int lane = int(threadIdx.x) % kLanes;
  FC_UNROLL
  for (int h = 0; h < 2; ++h) {
    const std::int64_t r = first + lane / 4 + 8 * h;
    if (r >= rows) continue;
    FC_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      store_pair(to + r * width, 8 * (part * kColumns + c) + lane % 4 * 2, width,
                 sums[c][2 * h] * factor[h], sums[c][2 * h + 1] * factor[h], width % 2 == 0);
    }
  }
}

}  // namespace fastcells
