#include "recurrent/cpu/packs.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "cpu/team.h"

namespace fastcells::cpu {
namespace {

using Hash = std::uint64_t;
constexpr std::int64_t kHashBlock = 64 * 1024;        // bytes: what one thread takes at a time
constexpr std::int64_t kBytesPerThread = 128 * 1024;  // less is not worth waking another thread

// One hash of several.
Hash combined(Hash a, Hash b) {
  const Hash both[] = {a, b};
  return hash_bytes(both, sizeof both);
}

template <class F>
void for_blocks(std::int64_t blocks, std::int64_t bytes, const F& body) {
  const auto threads = std::min<std::int64_t>(available_threads(), blocks);
  constexpr double kSecondsPerByte = 1e-10;
  if (bytes < 2 * kBytesPerThread || threads_now(int(threads), bytes * kSecondsPerByte) <= 1) {
    return body(0, blocks);
  }
  run_team(int(threads),
           [&](int thread) { body(blocks * thread / threads, blocks * (thread + 1) / threads); });
}

Hash hash_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return 0;
  const auto* bytes = static_cast<const char*>(tensor.const_data_ptr());
  const std::int64_t count = std::int64_t(tensor.nbytes());
  const std::int64_t blocks = (count + kHashBlock - 1) / kHashBlock;
  std::vector<Hash> hashes(blocks);
  for_blocks(blocks, count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      hashes[k] = hash_bytes(bytes + k * kHashBlock, std::min(kHashBlock, count - k * kHashBlock));
    }
  });
  return hash_bytes(hashes.data(), blocks * std::int64_t(sizeof(Hash)));
}

// A weight may be packed in several ways, and a view may lie where another begins.
using Key =
    std::tuple<const void*, const CellKernels*, bool /* gates */, std::int64_t, std::int64_t>;

struct Entry {
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  Hash hash;
  std::shared_ptr<Pack> pack;
};

std::mutex mutex;
// Nobody holds the lock at a fork: the child would wait for a thread that it does not have.
const int kUnlockedAtFork =
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });

// Storages whose weights are frozen. Their memory is not given to others while it is held here.
std::map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>>& frozen_storages() {
  static auto* const all =
      new std::map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>>;
  return *all;
}
std::atomic<bool> any_frozen{false};

// What tells whether a weight is what it was: a hash of its bytes, or of a frozen one the count of
// writes that torch keeps.
Hash state_of(const at::Tensor& tensor) {
  constexpr Hash kFrozen = 0x66726f7a656e0001;
  return tensor.defined() && is_frozen(tensor) ? kFrozen + (Hash(tensor._version()) << 1)
                                               : hash_of(tensor);
}

std::map<Key, Entry>& entries() {
  static auto* const all = new std::map<Key, Entry>;  // outlives every thread that may still look
  return *all;
}

void drop_dead() {  // under the mutex
  for (auto it = entries().begin(); it != entries().end();) {
    it = it->second.storage.expired() ? entries().erase(it) : std::next(it);
  }
}

// The pack of this key and hash, or what `fill` makes of a new one.
template <class Fill>
std::shared_ptr<const Pack> find_or_fill(const Key& key, const at::Tensor& weight, Hash hash,
                                         std::size_t panel_bytes, std::size_t bias_bytes,
                                         const Fill& fill) {
  std::shared_ptr<Pack> pack;
  {
    const std::lock_guard lock(mutex);
    drop_dead();
    const auto found = entries().find(key);
    if (found != entries().end()) {
      if (found->second.hash == hash) return found->second.pack;
      // The weight has changed: its memory serves again unless another call still reads it.
      if (found->second.pack.use_count() == 1) pack = std::move(found->second.pack);
      entries().erase(found);
    }
  }
  if (!pack || pack->bytes != panel_bytes + bias_bytes) {
    pack = std::make_shared<Pack>();
    pack->bytes = panel_bytes + bias_bytes;
    pack->panels = allocate(panel_bytes);
    if (bias_bytes) pack->bias = allocate(bias_bytes);
  }
  fill(*pack);
  const std::lock_guard lock(mutex);
  entries().insert_or_assign(key, Entry{weight.storage().getWeakStorageImpl(), hash, pack});
  return pack;
}

}  // namespace

std::shared_ptr<const Pack> pack_gates(const CellKernels& kernels, int gates,
                                       const at::Tensor& weight, const at::Tensor& scale,
                                       const at::Tensor& bias) {
  const std::int64_t H = weight.size(0) / gates, K = weight.size(1);
  const std::int64_t panels = (H + kernels.panel_units - 1) / kernels.panel_units;
  const std::int64_t bytes = panels * std::int64_t(kernels.gate_panel_bytes(K));
  const std::size_t arithmetic = weight.scalar_type() == at::kDouble ? 8 : 4;
  const std::size_t biases = panels * kernels.panel_vectors * kernels.lanes * arithmetic;
  const Key key{weight.const_data_ptr(), &kernels, true, weight.size(0), K};
  const Hash state = combined(combined(state_of(weight), state_of(bias)), state_of(scale));
  return find_or_fill(key, weight, state, bytes, bias.defined() ? biases : 0, [&](Pack& pack) {
    const void* const b = bias.defined() ? bias.const_data_ptr() : nullptr;
    const float* const s = scale.defined() ? scale.const_data_ptr<float>() : nullptr;
    for_blocks(panels, bytes, [&](std::int64_t begin, std::int64_t end) {
      kernels.pack_gates(weight.const_data_ptr(), s, b, H, K, begin, end, pack.panels.get(),
                         pack.bias.get());
    });
  });
}

std::shared_ptr<const Pack> pack_plain(const CellKernels& kernels, const at::Tensor& weight) {
  const std::int64_t K = weight.size(0), N = weight.size(1);
  const std::int64_t panels = (N + kernels.plain_columns - 1) / kernels.plain_columns;
  const std::int64_t bytes = panels * std::int64_t(kernels.plain_panel_bytes(K));
  const Key key{weight.const_data_ptr(), &kernels, false, K, N};
  return find_or_fill(key, weight, state_of(weight), bytes, 0, [&](Pack& pack) {
    for_blocks(panels, bytes, [&](std::int64_t begin, std::int64_t end) {
      kernels.pack_plain(weight.const_data_ptr(), K, N, begin, end, pack.panels.get());
    });
  });
}

void freeze(const at::Tensor& weight, bool frozen) {
  const std::lock_guard lock(mutex);
  auto& storages = frozen_storages();
  for (auto it = storages.begin(); it != storages.end();) {
    it = it->second.expired() ? storages.erase(it) : std::next(it);
  }
  const at::Storage& storage = weight.storage();
  const void* const start = weight.const_data_ptr();  // what was written before is packed anew
  std::erase_if(entries(), [&](const auto& entry) { return std::get<0>(entry.first) == start; });
  if (frozen) {
    storages.insert_or_assign(storage.unsafeGetStorageImpl(), storage.getWeakStorageImpl());
  } else {
    storages.erase(storage.unsafeGetStorageImpl());
  }
  any_frozen = !storages.empty();
}

bool is_frozen(const at::Tensor& weight) {
  if (!any_frozen || !weight.has_storage() || weight.is_inference()) return false;
  const std::lock_guard lock(mutex);
  const auto found = frozen_storages().find(weight.storage().unsafeGetStorageImpl());
  return found != frozen_storages().end() && !found->second.expired();
}

std::size_t packed_bytes() {
  const std::lock_guard lock(mutex);
  drop_dead();
  std::size_t bytes = 0;
  for (const auto& [key, entry] : entries()) bytes += entry.pack->bytes;
  return bytes;
}

}  // namespace fastcells::cpu
