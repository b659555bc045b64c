// Cases of a test of CUDA kernels, numbered from 0, each with a name and what came of it.
//
// FASTCELLS_SHORT asks for a short list: every kernel at least once, few cases, for tools under
// which a case takes a hundred times as long.
//
// FASTCELLS_FIRST_CASE says where to begin: behind a case whose kernel hung, and took the program
// with it. On a card, and where FASTCELLS_JSON is set, a result is a line of JSON:
//
//   {"begin": 3, "case": name}, and then
//   {"case": name, "ok": true, "error": 1e-7, "bound": 1e-5}  or  {..., "ok": false, "fault": why}
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

#include "card/json.h"
#include "machine.h"

namespace fastcells {

struct CaseCount {
  int next = 0;
  std::string current;
};
inline CaseCount& case_count() {
  static CaseCount count;
  return count;
}

#ifdef __CUDACC__
constexpr bool kOnCard = true;
#else
constexpr bool kOnCard = false;
#endif
inline bool says_json() {
  static const bool is_asked = std::getenv("FASTCELLS_JSON") != nullptr;
  return kOnCard || is_asked;
}
inline bool is_short() {
  static const bool is_asked = std::getenv("FASTCELLS_SHORT") != nullptr;
  return is_asked;
}
// A line of output, whole: who reads it may be waiting.
template <class... Args>
void say(const char* format, Args... args) {
  std::printf(format, args...);
  std::fflush(stdout);
}

// Whether the case is to be run.
inline bool begin_case(const std::string& name) {
  static const char* const first = std::getenv("FASTCELLS_FIRST_CASE");
  CaseCount& count = case_count();
  const int number = count.next++;
  count.current = name;
  if (first && number < std::atoi(first)) return false;
  if (says_json()) say("{\"begin\": %d, \"case\": %s}\n", number, card::quoted(name).c_str());
  return true;
}

// Whether it is right; `error` may be `bound` at most.
inline bool end_case(double error, double bound, bool is_repeated = true) {
  const bool ok = error <= bound && is_repeated;
  const std::string& name = case_count().current;
  if (says_json()) {
    const double finite = error < 1e300 ? error : 1e300;  // JSON has no infinity
    say("{\"case\": %s, \"ok\": %s, \"error\": %.3e, \"bound\": %.3e, \"repeated\": %s}\n",
        card::quoted(name).c_str(), ok ? "true" : "false", finite, bound,
        is_repeated ? "true" : "false");
  } else {
    say("%s: %.1e of %.1e%s%s\n", name.c_str(), error, bound, is_repeated ? "" : ", not bit-equal",
        ok ? "" : "  FAILED");
  }
  return ok;
}

// check(), a case; a fault fails it.
template <class Check>
bool run_case(const std::string& name, const Check& check) {
  if (!begin_case(name)) return true;
  try {
    return check();
  } catch (const simt::Fault& fault) {
    if (says_json()) {
      say("{\"case\": %s, \"ok\": false, \"fault\": %s}\n", card::quoted(name).c_str(),
          card::quoted(fault.what()).c_str());
    } else {
      say("FAILED: %s: %s\n", name.c_str(), fault.what());
    }
    return false;
  }
}

}  // namespace fastcells
