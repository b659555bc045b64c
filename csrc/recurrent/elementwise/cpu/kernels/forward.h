// One direction of an elementwise layer through time: a thread's rows and units, and no other
// thread is waited for.
//
//   for each chunk of steps, block of rows, panel of units:
//     gates = input W_ih^T + b_ih                      all frames at once, in the cache
//     for each lane of the panel:  the cell, step after step, its state in registers
#pragma once
#include "recurrent/elementwise/cpu/kernels/walk.h"

namespace fastcells {
namespace {

template <class T, class P>
class ElementwiseForward : Walk<T, P> {
  using Base = Walk<T, P>;
  using Base::a_, Base::cell_, Base::rows_, Base::panels_, Base::blocks_, Base::ranges_;
  using Base::L, Base::group_, Base::panel_units_;
  using typename Base::S, typename Base::V, typename Base::Lane, typename Base::Span;

 public:
  static std::size_t scratch_bytes(const elementwise::WalkArgs& a) {
    return ElementwiseForward(a, nullptr).arena_.used;
  }
  ElementwiseForward(const elementwise::ForwardArgs& a, const elementwise::Share& share)
      : ElementwiseForward(a, share.scratch) {
    args_ = &a;
    this->take_share(share);
  }

  void run() {
    start();
    for (int64_t begin = 0; begin < a_.T; begin += a_.chunk_steps) {
      const int64_t end = at_most(begin + a_.chunk_steps, a_.T);
      for (int64_t block = blocks_.first; block < blocks_.last; ++block) {
        run_block(this->rows_of(block), begin, end);
      }
    }
    finish();
  }

 private:
  ElementwiseForward(const elementwise::WalkArgs& a, void* scratch)
      : Base(a, a.block_rows * a.chunk_steps, scratch) {}

  void start() {
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const bool cut = rows_.cut_initial(b);
      store(h_at(b) + u, cut ? V(S(0)) : this->state_of(a_.h_0, b, u, a_.H));
      for (int k = 0; k < this->beside_h(); ++k) {
        const int64_t i = this->beside(b, k);
        store(c_at(i) + u, cut ? V(S(0)) : this->state_of(a_.c_0, i, u, a_.H));
      }
    });
  }
  // What is left in the carries are the final states: no reset stands behind a row's last step.
  void finish() {
    this->for_own_lanes([&](int64_t b, int64_t u) {
      const int64_t n = a_.H - u;
      store_lanes(static_cast<T*>(args_->h_n) + b * a_.H + u, load(h_at(b) + u), n);
      for (int k = 0; k < this->beside_h(); ++k) {
        const int64_t i = this->beside(b, k);
        store_lanes(static_cast<T*>(args_->c_n) + i * a_.H + u, load(c_at(i) + u), n);
      }
    });
  }
  S* h_at(int64_t b) const { return this->carry(args_->carry_h, b); }
  S* c_at(int64_t i) const { return this->carry(args_->carry_c, i); }

  void run_block(Range rows, int64_t begin, int64_t end) {
    const int64_t frames = this->list_spans(rows, begin, end);
    this->list_inputs(rows);
    for (int64_t q = panels_.first; q < panels_.last; q += group_) {
      const int64_t count = at_most(group_, panels_.last - q);
      this->multiply(q, count, frames);
      for (int64_t j = 0; j < count; ++j) {
        for (int w = 0; w < cell_.unit_vectors; ++w) {
          const int64_t u = (q + j) * panel_units_ + w * L;
          for (int64_t b = rows.first; b < rows.last && u < a_.H; ++b) {
            clear_absent(b, u, begin, end);
            add_lane({b, u, this->gates_at(j, w, b)});
          }
        }
      }
      walk_waiting();
    }
  }

  // Four lanes walk together, as two pairs, where their steps are the same.
  void add_lane(Lane lane) {
    waiting_[count_++] = lane;
    if (count_ == 4) walk_waiting();
  }
  bool have_same_steps(int first, int count) const {
    if (first + count > count_) return false;
    const Span& span = ranges_[waiting_[first].b];
    for (int i = 1; i < count; ++i) {
      const Span& other = ranges_[waiting_[first + i].b];
      if (other.first != span.first || other.last != span.last) return false;
    }
    return true;
  }
  void walk_waiting() {
    for (int i = 0, n; i < count_; i += n) {
      n = have_same_steps(i, 4) ? 4 : have_same_steps(i, 2) ? 2 : 1;
      cell_.forward(*args_, ranges_[waiting_[i].b], waiting_ + i, n);
    }
    count_ = 0;
  }

  // Zeros where a row has no step.
  void clear_absent(int64_t b, int64_t u, int64_t begin, int64_t end) const {
    const V zero(S(0));
    const int64_t n = a_.H - u;
    for (int64_t i = begin; i < end; ++i) {
      if (i == ranges_[b].first) i = ranges_[b].last;
      if (i >= end) break;
      const int64_t t = this->step(i), r = t * a_.B + b;
      store_lanes(static_cast<T*>(args_->output) + r * a_.output_stride + u, zero, n);
      for (int k = 0; args_->cells && k < this->beside_h(); ++k) {
        store_lanes(static_cast<S*>(args_->cells) + r * a_.cells_stride + k * a_.H + u, zero, n);
      }
      for (int k = 0; args_->saved && k < cell_.saved; ++k) {
        store_lanes(static_cast<T*>(args_->saved) + r * a_.saved_stride + k * a_.H + u, zero, n);
      }
    }
  }

  const elementwise::ForwardArgs* args_ = nullptr;
  Lane waiting_[4];
  int count_ = 0;
};

}  // namespace
}  // namespace fastcells
