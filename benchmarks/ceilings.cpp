// What this machine can do at best, as JSON: float32 FMA in GF/s, products of bfloat16 pairs and of
// bytes in the same unit, in vectors and on tiles (0 without an instruction for them), and GB/s
// read by each thread.
//
// `ceilings N` measures on 1 and on N threads. The FMA loop touches registers alone, with enough
// independent chains to hide the latency. Reading sums a buffer of each thread's own, again and
// again, so that a small one comes from L1 or L2 and a large one from L3 or memory.
// The best of several repetitions counts: a ceiling is not made lower by what else runs.

#include <omp.h>
#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define FASTCELLS_TILES
#include "cpu/simd/amx.h"
#include "cpu/tile_permission.h"
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kVectorBytes)));

constexpr int kLanes = kVectorBytes / 4;
constexpr int kChains = 12;  // two FMA units of latency 4 or 5 need 8 to 10; 16 registers hold 14
constexpr int kReadChains = 8;
constexpr long kFmaRounds = 20'000'000;
constexpr long kTileRounds = 500'000;
constexpr int kRepetitions = 7;
constexpr double kReadSeconds = 0.01;
constexpr long kKiB = 1024;
constexpr long kBufferKiB[] = {128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};

volatile float sink;  // keeps results alive

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

float sum_lanes(Vector v) {
  float sum = 0;
  for (int i = 0; i < kLanes; i++) sum += v[i];
  return sum;
}

// Seconds that `threads` threads take for `work(thread)`, from the first start to the last end.
template <class Work>
double seconds_of(int threads, Work work) {
  double start = 0, end = 0;
#pragma omp parallel num_threads(threads)
  {
#pragma omp barrier
#pragma omp master
    start = now();
#pragma omp barrier
    work(omp_get_thread_num());
#pragma omp barrier
#pragma omp master
    end = now();
  }
  return end - start;
}

void multiply_add(long rounds, float factor, float term) {
  Vector chains[kChains], a = Vector{} + factor, b = Vector{} + term;
  for (int i = 0; i < kChains; i++) chains[i] = Vector{} + static_cast<float>(i);
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) chains[i] = chains[i] * a + b;
  }
  Vector sum{};
  for (int i = 0; i < kChains; i++) sum += chains[i];
  sink = sum_lanes(sum);
}

double fma_gflops(int threads) {
  volatile float factor = 0.5f, term = 0.25f;  // unknown to the compiler, far from denormals
  double best = 0;
  for (int i = 0; i < kRepetitions; i++) {
    double seconds = seconds_of(threads, [&](int) { multiply_add(kFmaRounds, factor, term); });
    best = std::max(best, 2.0 * kLanes * kChains * kFmaRounds * threads / seconds * 1e-9);
  }
  return best;
}

// Operations a second, in 1e9, of `step(chain)`, an instruction that multiplies and adds
// `products` numbers a lane of 32 bits.
template <class Chain, class Step>
double dot_gigaops(int threads, int products, Step step) {
  double best = 0;
  for (int i = 0; i < kRepetitions; i++) {
    double seconds = seconds_of(threads, [&](int) {
      Chain chains[kChains];
      for (int c = 0; c < kChains; c++)
        chains[c] = Chain{} + decltype(Chain{}[0] + 0)(c);  // different, or one is computed
      for (long r = 0; r < kFmaRounds; r++) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; c++) chains[c] = step(chains[c]);
      }
      for (int c = 1; c < kChains; c++) chains[0] += chains[c];
      sink = static_cast<float>(chains[0][0]);
    });
    best =
        std::max(best, 2.0 * products * kLanes * kChains * kFmaRounds * threads / seconds * 1e-9);
  }
  return best;
}

double bfloat16_gflops([[maybe_unused]] int threads) {
#if defined(__AVX512BF16__)
  volatile int bits = 0x3e803e80;  // 0.25 twice
  const __m512i x = _mm512_set1_epi32(bits);
  return dot_gigaops<__m512>(
      threads, 2, [x](__m512 acc) { return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)x); });
#else
  return 0;
#endif
}

double int8_gigaops([[maybe_unused]] int threads) {
#if defined(__AVX512VNNI__)
  typedef int Words __attribute__((vector_size(64)));
  volatile int bits = 0x01010101;
  const __m512i x = _mm512_set1_epi32(bits);
  return dot_gigaops<Words>(
      threads, 4, [x](Words acc) { return (Words)_mm512_dpbusd_epi32((__m512i)acc, x, x); });
#else
  return 0;
#endif
}

// Operations a second, in 1e9, of products of tiles of bytes or of bfloat16 that come from the
// first-level cache, four products and four loads a turn. 0 where there are no tiles, or the system
// refuses them.
double tile_gigaops([[maybe_unused]] int threads, [[maybe_unused]] bool is_bytes) {
  double best = 0;
#if defined(FASTCELLS_TILES)
  using fastcells::Tiles;
  static const bool may_use_tiles = fastcells::cpu::may_use_tiles();
  for (int i = 0; i < kRepetitions && may_use_tiles; i++) {
    double seconds = seconds_of(threads, [is_bytes](int) {
      alignas(64) static const char operands[4][1024] = {};
      fastcells::TileConfiguration shapes;
      for (int tile = 0; tile < fastcells::kTiles; tile++)
        shapes.rows[tile] = 16, shapes.row_bytes[tile] = 64;
      Tiles::configure(shapes);
      for (long r = 0; r < kTileRounds; r++) {
        Tiles::load<6>(operands[0], 64), Tiles::load<4>(operands[1], 64);
        Tiles::load<5>(operands[2], 64), Tiles::load<7>(operands[3], 64);
        if (is_bytes) {
          Tiles::add_quads<0, 4, 6>(), Tiles::add_quads<1, 4, 7>();
          Tiles::add_quads<2, 5, 6>(), Tiles::add_quads<3, 5, 7>();
        } else {
          Tiles::add_pairs<0, 4, 6>(), Tiles::add_pairs<1, 4, 7>();
          Tiles::add_pairs<2, 5, 6>(), Tiles::add_pairs<3, 5, 7>();
        }
      }
      Tiles::release();
    });
    const double operations = 2.0 * 4 * 16 * 16 * (is_bytes ? 64 : 32);
    best = std::max(best, operations * kTileRounds * threads / seconds * 1e-9);
  }
#endif
  return best;
}

// buffer [count] vectors, count a multiple of kReadChains.
void read_all(const Vector* buffer, long count, long sweeps) {
  Vector sums[kReadChains] = {};
  for (long s = 0; s < sweeps; s++) {
    for (long i = 0; i < count; i += kReadChains) {
#pragma GCC unroll 8
      for (int k = 0; k < kReadChains; k++) sums[k] += buffer[i + k];
    }
    asm volatile("" ::: "memory");  // the next sweep must read again
  }
  for (int k = 1; k < kReadChains; k++) sums[0] += sums[k];
  sink = sum_lanes(sums[0]);
}

double read_gigabytes_per_second(int threads, long bytes) {
  std::vector<Vector*> buffers(threads);
  long count = bytes / kVectorBytes;
  auto fill = [&](int thread) {  // by its own thread, so that the pages are near it
    buffers[thread] = static_cast<Vector*>(std::aligned_alloc(4096, bytes));
    std::fill(buffers[thread], buffers[thread] + count, Vector{} + 1.0f);
  };
  seconds_of(threads, fill);
  auto sweep = [&](long n) {
    return seconds_of(threads, [&](int thread) { read_all(buffers[thread], count, n); });
  };
  sweep(1);
  long sweeps = std::max(1L, static_cast<long>(kReadSeconds / sweep(1)));
  double best = 0;
  for (int i = 0; i < kRepetitions; i++) best = std::max(best, bytes * sweeps / sweep(sweeps));
  for (Vector* buffer : buffers) std::free(buffer);
  return best * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  int most = argc > 1 ? std::atoi(argv[1]) : omp_get_num_procs();
  std::vector<int> counts{1};
  if (most > 1) counts.push_back(most);
  const char* separator = "";
  std::printf("{\"vector_bytes\": %d, \"threads\": [", kVectorBytes);
  for (int threads : counts) {
    std::printf("%s\n{\"threads\": %d, \"fma_gflops\": %.1f, ", separator, threads,
                fma_gflops(threads));
    std::printf("\"bfloat16_gflops\": %.1f, \"int8_gigaops\": %.1f, ", bfloat16_gflops(threads),
                int8_gigaops(threads));
    std::printf("\"bfloat16_tile_gflops\": %.1f, \"int8_tile_gigaops\": %.1f, ",
                tile_gigaops(threads, false), tile_gigaops(threads, true));
    std::printf("\"read_gb_s_per_thread\": {");
    separator = "";
    for (long kib : kBufferKiB) {
      double rate = read_gigabytes_per_second(threads, kib * kKiB);
      std::printf("%s\"%ld\": %.1f", separator, kib * kKiB, rate);
      separator = ", ";
    }
    std::printf("}}");
    separator = ",";
  }
  std::printf("\n]}\n");
}
