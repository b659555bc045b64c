#include "recurrent/compiled/registry.h"

#include <atomic>
#include <deque>
#include <mutex>

namespace fastcells::compiled {
namespace {

constexpr int kMost = 4096, kStorages = 4;

// Entries are only added: whoever reads a count sees all entries below it.
struct Entry {
  const CellLibrary* first = nullptr;
  std::atomic<const CellLibrary*> of_storage[kStorages] = {};
};
Entry entries[kMost];
std::atomic<int> count{0};
std::mutex mutex;

// The place of a cell, a new one where it is not known. Under the mutex.
int place_of(const CellLibrary& library) {
  int place;
  if (find(library.name, place)) return place;
  if (place == kMost) throw std::invalid_argument("fastcells: too many compiled cells");
  entries[place].first = &library;
  count.store(place + 1, std::memory_order_release);
  return place;
}

}  // namespace

const CellLibrary* find(std::string_view name, int& place) {
  const int known = count.load(std::memory_order_acquire);
  for (place = 0; place < known; ++place) {
    if (entries[place].first->name == name) return entries[place].first;
  }
  return nullptr;
}

const CellLibrary* find(CellKind kind, Storage storage) {
  const int place = int(kind) - kFirst;
  if (place < 0 || place >= count.load(std::memory_order_acquire)) return nullptr;
  return entries[place].of_storage[int(storage)].load(std::memory_order_acquire);
}

void take(const CellLibrary& library) {
  if (library.layout != kLayout) {
    throw std::invalid_argument(std::string("fastcells: the library of ") + library.name +
                                " was compiled against other headers than this module");
  }
  const std::lock_guard lock(mutex);
  auto& entry = entries[place_of(library)];
  entry.of_storage[int(library.storage)].store(&library, std::memory_order_release);
}

CellLibrary facts_of(const std::string& name, const std::map<std::string, int>& constants) {
  const auto value = [&](const char* key) {
    const auto found = constants.find(key);
    return found == constants.end() ? 0 : found->second;
  };
  CellLibrary library{};
  library.layout = kLayout, library.name = name.c_str();
  library.gates = value("kGates"), library.states = value("kStates");
  library.saved = value("kSaved"), library.unit_weights = value("kUnitWeights");
  library.is_elementwise = constants.contains("kReadsInput");
  library.additive = library.is_elementwise || value("kAdditive") != 0;
  library.whole_rows = value("kWholeRows") != 0;
  return library;
}

int declare(const CellLibrary& facts) {
  static std::deque<std::string> names;  // nothing in them moves
  static std::deque<CellLibrary> kept;
  const std::lock_guard lock(mutex);
  if (int place; find(facts.name, place)) return place;
  kept.push_back(facts);
  kept.back().name = names.emplace_back(facts.name).c_str();
  return place_of(kept.back());
}

}  // namespace fastcells::compiled
