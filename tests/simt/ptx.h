// Host twins of csrc/cuda/ptx.cuh: the same names, arguments and effects, with the orders that the
// PTX ISA (9.0, "Memory Consistency Model", "Asynchronous operations") promises and no others.
#pragma once
#include <cmath>

#include <cuda_runtime.h>

namespace fastcells::ptx {

using simt::Shared;
using simt::shared_array;
using simt::shared_cast;

// ---- clusters ----

constexpr bool kHasClusters = true;

inline unsigned cluster_rank() { return simt::self().block->rank; }
inline unsigned cluster_size() { return simt::machine->cluster_size; }

inline simt::Block* peer_block(unsigned rank) {
  const simt::Machine& m = *simt::machine;
  if (rank >= m.cluster_size) {
    throw simt::Fault("block " + std::to_string(rank) + " of a cluster of " +
                      std::to_string(m.cluster_size));
  }
  const simt::Block& mine = *simt::self().block;
  return m.blocks[mine.place - mine.rank + rank].get();
}
// The same place in the shared memory of another block of the cluster.
template <class T>
Shared<T> peer(Shared<T> mine, unsigned rank) {
  mine.place.block = peer_block(rank);
  return mine;
}
inline void cluster_sync() {
  simt::Machine& m = *simt::machine;
  simt::arrive_and_wait(m.cluster_barriers[simt::self().block->place / m.cluster_size], true);
}

// ---- mbarriers that count arrivals and bytes ----

using Transactions = std::uint64_t;

inline simt::TransactionBarrier& state_of(const simt::Place& place) {
  place.check(sizeof(Transactions));
  const auto found = place.block->transaction_barriers.find(std::size_t(place.offset));
  if (found == place.block->transaction_barriers.end()) {
    throw simt::Fault(place.text(sizeof(Transactions)) + " is used as an mbarrier, but is none");
  }
  return found->second;
}
inline void complete_phase(simt::TransactionBarrier& b) {
  if (b.arrivals_left > 0 || b.bytes_left != 0) return;
  b.arrivals_left = b.arrivals, b.phase ^= 1;
  b.gathered = std::move(b.gathering);
  b.gathering = {};
}

inline void transactions_init(Shared<Transactions> barrier, unsigned arrivals) {
  barrier[0] = 0;  // as memory: whoever uses it must be ordered after this
  barrier.place.block->transaction_barriers[std::size_t(barrier.place.offset)] = {
      arrivals, arrivals, 0, 0, {}, {}};
}
// One arrival, and `bytes` more to wait for in this phase.
inline void arrive_expecting(Shared<Transactions> barrier, unsigned bytes) {
  simt::TransactionBarrier& b = state_of(barrier.place);
  if (b.arrivals_left == 0) throw simt::Fault("an mbarrier gets more arrivals than its phase has");
  simt::tick();
  simt::join(b.gathering, simt::self().clock);
  b.bytes_left += int(bytes), --b.arrivals_left;
  complete_phase(b);
}
inline void wait(Shared<Transactions> barrier, unsigned parity) {
  simt::TransactionBarrier& b = state_of(barrier.place);
  simt::wait_until([&b, parity] { return b.phase != parity; });
  simt::meet(/*is_of_block=*/true);
  simt::join(simt::self().clock, b.gathered);
}

// Counts what goes to a block of the cluster.
inline void see_sent(const simt::Place& to, std::size_t size) {
  const bool is_own = to.block == simt::self().block;
  const std::uint64_t block = to.block->place;
  const std::uint64_t at = (block << simt::kBlockBits) + std::uint64_t(to.offset);
  simt::see(simt::Seen::kSent, {size, std::uint64_t(to.low), is_own ? simt::kNowhere : at});
}
// value to `where` in block `rank`, whose `barrier` then has sizeof(T) bytes less to wait for.
// Arrives at any time, and is seen by whoever waited for the barrier.
template <class T>
void store_async(Shared<T> where, T value, Shared<Transactions> barrier, unsigned rank) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  const Shared<T> to = peer(where, rank);
  const Shared<Transactions> counter = peer(barrier, rank);
  to.place.check(sizeof value);
  see_sent(to.place, sizeof value);
  simt::Clock known;
  const simt::Event event = simt::tick_async(known);
  to.place.note(sizeof value, true, event, known);
  simt::machine->sent.push_back([=] {
    std::memcpy(to.place.bytes(), &value, sizeof value);
    simt::TransactionBarrier& b = state_of(counter.place);
    simt::Clock after = known;
    after.pass(event);
    simt::join(b.gathering, after);
    b.bytes_left -= int(sizeof value);
    complete_phase(b);
  });
}

// ---- copies from global to shared memory ----

// 16 bytes; they are there after a wait for their group.
template <class T>
void copy_async(Shared<T> to, const T* from) {
  constexpr std::size_t kBytes = 16;
  Shared<uint4> where = shared_cast<uint4>(to);
  where.place.check(kBytes);
  where.place.see(simt::Seen::kSharedWrite, kBytes);
  if (reinterpret_cast<std::uintptr_t>(from) % kBytes != 0) {
    throw simt::Fault("copy_async: the source is not at a multiple of 16 bytes");
  }
  simt::Clock known;
  const simt::Event event = simt::tick_async(known);
  where.place.note(kBytes, true, event, known);
  simt::Fiber& fiber = simt::self();
  fiber.copies.back().push_back([where, from, event, &fiber] {
    std::memcpy(where.place.bytes(), from, kBytes);
    fiber.clock.pass(event);
  });
}
inline void commit_copies() { simt::self().copies.emplace_back(); }
// Waits until at most `pending` of the committed groups are under way.
template <int pending>
void wait_copies() {
  auto& groups = simt::self().copies;
  while (groups.size() > pending + 1) {
    for (const auto& copy : groups.front()) copy();
    groups.erase(groups.begin());
  }
}

// ---- global memory that blocks of a running grid share ----

// Its history: whoever reads what another thread wrote must be ordered after it, as in shared
// memory.
inline void note_global(const void* at, bool is_write) {
  simt::see(is_write ? simt::Seen::kGlobalWrite : simt::Seen::kGlobalRead,
            {sizeof(uint4), 0, reinterpret_cast<std::uintptr_t>(at)});
  if (!simt::looks_at_orders()) return;
  const auto place = simt::machine->global.try_emplace(at, simt::Granule::initialised()).first;
  const simt::Event now = simt::tick();
  const simt::Clock& clock = simt::self().clock;
  const std::string wrong =
      is_write ? place->second.write(now, clock) : place->second.read(now, clock);
  if (!wrong.empty()) {
    throw simt::Fault("global memory " + wrong + " (thread " + std::to_string(simt::self().agent) +
                      ")");
  }
}
inline uint4 load_global(const uint4* from) {
  note_global(from, false);
  return *from;
}
inline void store_global(uint4* to, uint4 value) {
  note_global(to, true);
  *to = value;
}
// Whoever sees the counter's new value, or a later one, sees what was ordered before this.
inline void add_release(unsigned* counter) {
  simt::tick();
  simt::join(simt::machine->counters[counter], simt::self().clock);
  ++*counter;
}
// Until the counter, which may wrap around, is `least` or more.
inline void wait_for_count(const unsigned* counter, unsigned least) {
  simt::wait_until([=] { return int(*counter - least) >= 0; });
  const auto found = simt::machine->counters.find(counter);
  if (found != simt::machine->counters.end()) simt::join(simt::self().clock, found->second);
}

// ---- packets: words that say by themselves whether they are new ----

// Each word arrives by itself, at any time; of one place in the order of the stores. That says
// nothing of other memory. But a writer knows the reads from which its value was made to be over,
// and whoever has that value knows it, too.
inline void store_packet(uint4* to, uint4 value) {
  simt::Machine& m = *simt::machine;
  simt::see(simt::Seen::kGlobalWrite, {sizeof value, 0, reinterpret_cast<std::uintptr_t>(to)});
  const simt::Event now = simt::tick();
  const auto over = std::make_shared<const simt::Times>(simt::self().clock.over);
  const unsigned words[] = {value.x, value.y, value.z, value.w};
  unsigned* const first = &to->x;
  for (int k = 0; k < 4; ++k) {
    unsigned* const at = first + k;
    if (simt::looks_at_orders()) {
      const auto granule = m.global.try_emplace(at, simt::Granule::initialised()).first;
      const std::string wrong = granule->second.write(now, simt::self().clock);
      if (!wrong.empty()) throw simt::Fault("a packet " + wrong);
    }
    m.packet_words[at].push_back({words[k], over});
    m.sent.push_back([&m, at] {
      std::deque<simt::PacketWord>& waiting = m.packet_words[at];
      *at = waiting.front().value;
      m.packets[at] = std::move(waiting.front());
      waiting.pop_front();
    });
  }
}

struct Packet {
  uint4 quad;
  uint2 rest;
};
struct PacketPlace {
  const uint4* quad;  // nullptr: there is none, and it is zero
  const uint2* rest;
};
// A read of `count` words that waits for no order, and of what it found knows which reads are over.
// Words that are still on their way were to be waited for, or are written over what is read.
inline void note_packet(const unsigned* first, int count) {
  simt::Machine& m = *simt::machine;
  simt::see(simt::Seen::kGlobalRead, {count * sizeof(unsigned), std::uint64_t(count),
                                      reinterpret_cast<std::uintptr_t>(first)});
  for (int k = 0; k < count; ++k) {
    const auto waiting = m.packet_words.find(first + k);
    if (waiting != m.packet_words.end() && !waiting->second.empty()) {
      throw simt::Fault("a packet is taken while words of it are on their way");
    }
  }
  if (!simt::looks_at_orders()) return;
  const simt::Event now = simt::tick();
  for (const unsigned* at = first; at < first + count; ++at) {
    m.global.try_emplace(at, simt::Granule::initialised()).first->second.note_read(now);
    const auto found = m.packets.find(at);
    if (found != m.packets.end()) simt::join(simt::self().clock.over, *found->second.over);
  }
}
// Those at place(0), place(1), ..., each looked at until is_new(packet). By all lanes of a warp.
template <int n, class Place, class IsNew>
void load_packets(Packet (&packets)[n], const Place& place, const IsNew& is_new) {
  for (int k = 0; k < n; ++k) {
    const PacketPlace from = place(k);
    Packet& p = packets[k] = {};
    if (!from.quad) continue;
    simt::wait_until([&] {
      p = {*from.quad, *from.rest};
      return is_new(p);
    });
    note_packet(&from.quad->x, 4), note_packet(&from.rest->x, 2);
  }
  __syncwarp();
}

// ---- special functions ----

// A subnormal counts as 0, before and after.
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
inline float reciprocal(float x) { return flushed(1.0f / flushed(x)); }
inline float exp2(float x) { return flushed(std::exp2(flushed(x))); }

// ---- products of a warp ----

inline float widened(std::uint16_t bits, const __nv_bfloat16*) {
  const std::uint32_t word = std::uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}
inline float widened(std::uint16_t bits, const __half*) {
  __half value;
  std::memcpy(&value, &bits, sizeof value);
  return float(value);
}
inline std::uint16_t half_of(std::uint32_t pair, unsigned which) {
  return std::uint16_t(which ? pair >> 16 : pair);
}

// d += a b over eight words of K: word k of row r of a is in lane 4 * (r % 8) + k % 4, of column c
// of b in lane 4 * c + k % 4 (PTX ISA, fragments of mma.m16n8k16 and mma.m16n8k8). `product` is
// that of two words.
template <class Product>
void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                        Product product) {
  struct Fragments {
    unsigned a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  struct Sums {
    float d[4];
  };
  const Sums sums = simt::exchange(mine, [&](auto of) {
    Sums result;
    for (unsigned e = 0; e < 4; ++e) {
      const unsigned row = simt::lane() / 4 + e / 2 * 8, column = simt::lane() % 4 * 2 + e % 2;
      float sum = d[e];
      for (unsigned k = 0; k < 8; ++k) {
        const Fragments with_a = of(row % 8 * 4 + k % 4), with_b = of(column * 4 + k % 4);
        sum += product(with_a.a[row / 8 + k / 4 * 2], with_b.b[k / 4]);
      }
      result.d[e] = sum;
    }
    return result;
  });
  std::memcpy(d, sums.d, sizeof sums.d);
}

// d += a b: a [16, 16], b [16, 8], pairs of T; d [16, 8].
template <class T>
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  multiply_fragments(d, a, b, [](unsigned x, unsigned y) {
    const T* const type = nullptr;
    return widened(half_of(x, 0), type) * widened(half_of(y, 0), type) +
           widened(half_of(x, 1), type) * widened(half_of(y, 1), type);
  });
}

// A float32 to the nearest of TF32, which has 11 bits; ties away from zero.
inline unsigned round_to_tf32(unsigned word) { return (word + 0x1000u) & ~0x1fffu; }

// d += a b: a [16, 8], b [8, 8], words of float32 of which the upper 19 bits count (TF32).
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const auto value = [](unsigned word) {
    word &= ~0x1fffu;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  };
  multiply_fragments(d, a, b, [&](unsigned x, unsigned y) { return value(x) * value(y); });
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and
// gets of each matrix the elements 2*(l % 4), 2*(l % 4) + 1 of row l / 4.
template <class Pick>
void exchange_matrices(unsigned (&out)[4], Shared<std::uint16_t> row, const Pick& pick) {
  struct Row {
    std::uint16_t elements[8];
  } mine;
  shared_cast<Row>(row).place.read(&mine, sizeof mine);
  struct Words {
    unsigned words[4];
  };
  const Words words = simt::exchange(mine, [&](auto of) {
    Words result;
    for (unsigned m = 0; m < 4; ++m) {
      // Element c of row r.
      const auto element = [&](unsigned r, unsigned c) { return of(m * 8 + r).elements[c]; };
      result.words[m] = pick(element, simt::lane() / 4, simt::lane() % 4 * 2);
    }
    return result;
  });
  std::memcpy(out, words.words, sizeof words.words);
}
inline void load_matrices(unsigned (&out)[4], Shared<std::uint16_t> row) {
  exchange_matrices(out, row, [](const auto& element, unsigned r, unsigned c) {
    return element(r, c) | unsigned(element(r, c + 1)) << 16;
  });
}
// The same matrices transposed: a lane gets of each the elements l / 4 of rows 2*(l % 4) and
// 2*(l % 4) + 1.
inline void load_transposed(unsigned (&out)[4], Shared<std::uint16_t> row) {
  exchange_matrices(out, row, [](const auto& element, unsigned r, unsigned c) {
    return element(c, r) | unsigned(element(c + 1, r)) << 16;
  });
}

// ---- arithmetic ----

// Two numbers of 16 bits, to the nearest; `low` in the lower half.
template <class T>
unsigned pack(float low, float high) {
  const T pair[2] = {T(low), T(high)};
  unsigned word;
  std::memcpy(&word, pair, sizeof word);
  return word;
}
inline float power_of_two(float x) { return std::exp2(x); }

}  // namespace fastcells::ptx
