// The steps of batch rows that lie side by side: all are walked together, lane beside lane, and
// what happens to one of them (it begins, it ends, it is cut) happens between two runs of steps.
#pragma once
#include <cstring>

#include "scan/cpu/kernels/args.h"
#include "scan/cpu/kernels/numbers.h"

namespace fastcells {
namespace {

class RowsWalk {
 public:
  // `is_down`: t decreases. A run does not reach over a multiple of `most` steps.
  RowsWalk(const ScanArgs& a, const cpu::ScanTask& task, bool is_down, int64_t most)
      : rows_(a.rows),
        units_(a.units),
        first_lane_(task.first_lane),
        last_lane_(task.last_lane),
        T_(a.T),
        most_(most),
        first_row_(task.first_lane / a.units),
        last_row_(divide_up(task.last_lane, a.units)),
        by_length_(a.by_length),
        place_(is_down ? a.rows.B : 0),
        is_down_(is_down) {}

  int64_t direction() const { return is_down_ ? -1 : 1; }
  // A row's lanes among those of the task.
  Range lanes(int64_t row) const {
    const int64_t first = row * units_, last = at_most(first + units_, last_lane_);
    return {(first > first_lane_ ? first : first_lane_) - first_lane_, last - first_lane_};
  }
  template <class F>
  void each_row(const F& f) const {
    for (int64_t row = first_row_; row < last_row_; ++row) f(row);
  }

  // begin(row), end(row) and cut(row) in front of a step, run(t, count, position behind them). Rows
  // without steps never begin; those that are there at the end of the walk do not end.
  template <class Begin, class End, class Cut, class Run>
  void walk(const Begin& begin, const End& end, const Cut& cut, const Run& run) {
    if (!is_down_ || !by_length_) {
      each_row([&](int64_t row) {
        if (rows_.length(row) > 0) begin(row);
      });
    }
    const int64_t d = direction();
    for (int64_t done = 0; done < T_;) {
      const int64_t t = is_down_ ? T_ - 1 - done : done;
      if (by_length_) pass_lengths(t, begin, end);
      each_cut(t, cut);
      int64_t count = 1;
      while (done + count < T_ && (done + count) % most_ != 0 && !has_event(t + d * count)) ++count;
      done += count;
      run(t, count, done);
    }
  }

  // Rows with no state to take over in step t from the step before it in this walk.
  template <class F>
  void each_cut(int64_t t, const F& f) const {
    const int64_t boundary = is_down_ ? t + 1 : t;
    for (int64_t row = next_reset(boundary, first_row_); row < last_row_;
         row = next_reset(boundary, row + 1)) {
      if (boundary < rows_.length(row)) f(row);
    }
  }
  // Rows whose last step in this walk is the one before `next`.
  template <class F>
  void each_ending(int64_t next, const F& f) const {
    if (next == (is_down_ ? -1 : T_)) {
      return each_row([&](int64_t row) {
        if (is_down_ || rows_.length(row) == T_) f(row);
      });
    }
    if (is_down_ || !by_length_) return;
    for (int64_t i = place_; i < rows_.B && rows_.length(by_length_[i]) == next; ++i) {
      if (is_mine(by_length_[i])) f(by_length_[i]);
    }
  }

 private:
  bool is_mine(int64_t row) const { return row >= first_row_ && row < last_row_; }
  template <class Begin, class End>
  void pass_lengths(int64_t t, const Begin& begin, const End& end) {
    if (is_down_) {
      for (; place_ > 0 && rows_.length(by_length_[place_ - 1]) > t; --place_) {
        if (is_mine(by_length_[place_ - 1])) begin(by_length_[place_ - 1]);
      }
    } else {
      for (; place_ < rows_.B && rows_.length(by_length_[place_]) <= t; ++place_) {
        const int64_t row = by_length_[place_];
        if (is_mine(row) && rows_.length(row) > 0) end(row);
      }
    }
  }
  bool has_event(int64_t t) const {
    if (next_reset(is_down_ ? t + 1 : t, first_row_) < last_row_) return true;
    if (!by_length_) return false;
    if (is_down_) return place_ > 0 && rows_.length(by_length_[place_ - 1]) > t;
    return place_ < rows_.B && rows_.length(by_length_[place_]) <= t;
  }
  // The first row from `row` on that is reset at this boundary, or the last of all.
  int64_t next_reset(int64_t boundary, int64_t row) const {
    if (!rows_.resets || boundary <= 0 || boundary >= T_ || row >= last_row_) return last_row_;
    const bool* const all = rows_.resets + boundary * rows_.B;
    const void* const found = std::memchr(all + row, 1, std::size_t(last_row_ - row));
    return found ? static_cast<const bool*>(found) - all : last_row_;
  }

  const Rows& rows_;
  const int64_t units_, first_lane_, last_lane_, T_, most_, first_row_, last_row_;
  const int64_t* const by_length_;
  int64_t place_;  // in by_length: the next row to end, or behind the next to begin
  const bool is_down_;
};

// Which lanes are there, where rows lie side by side: 1, or 0.
template <class S>
class Presence {
 public:
  Presence(S* lanes, int64_t count) : lanes_(lanes), count_(count) {
    for (int64_t j = 0; j < count; ++j) lanes[j] = S(0);
  }
  void set(Range row, bool is_there) {
    for (int64_t j = row.first; j < row.last; ++j) lanes_[j] = S(is_there);
    there_ += (is_there ? 1 : -1) * (row.last - row.first);
  }
  bool is_full() const { return there_ == count_; }

 private:
  S* const lanes_;
  const int64_t count_;
  int64_t there_ = 0;
};

}  // namespace
}  // namespace fastcells
