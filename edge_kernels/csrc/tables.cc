#include "tables.h"

namespace flwr_edge {

Tables::Tables(const Isa& isa, const Weights& weights, bool fast, const Activation* rows,
               const uint8_t* finite, int64_t count)
    : isa_(isa), weights_(weights), fast_(fast), rows_(rows), finite_(finite), count_(count),
      bytes_(bytes(isa, weights, fast)) {}

const Activation* Tables::of_this_thread() {
  if (bytes_ == 0) return rows_;
  static thread_local const char here = 0;  // its address tells threads apart
  Set& set = claim(&here);
  if (!set.ready) fill(set);
  return set.rows;
}

Tables::Set& Tables::claim(const void* thread) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!first_.thread) first_.thread = thread;
  if (first_.thread == thread) return first_;
  for (Set& set : others_) {
    if (set.thread == thread) return set;
  }
  others_.emplace_back();
  others_.back().thread = thread;
  return others_.back();
}

void Tables::fill(Set& set) const {
  set.scratch.emplace(size_t(count_) * bytes_);
  for (int64_t i = 0; i < count_; ++i) {
    set.rows[i] = rows_[i];
    if (finite_[i]) make(*set.scratch, &set.rows[i]);
  }
  set.ready = true;
}

size_t Tables::bytes(const Isa& isa, const Weights& weights, bool fast) {
  if (weights.bits == 4) return 0;
  const size_t tiles = size_t(weights.input_tiles);
  if (fast) return tiles * 256 + Scratch::padded(tiles * 4);
  return tiles * (isa.own_tables ? isa.own_bytes : 2 * 256);
}

void Tables::make(Scratch& scratch, Activation* row) const {
  const int64_t tiles = weights_.input_tiles;
  if (fast_) {
    auto* fast = scratch.take<int8_t>(tiles * 256);
    auto* step = scratch.take<float>(tiles);
    isa_.fast_tables(row->q, tiles, fast, step);
    row->fast = fast;
    row->step = step;
  } else if (isa_.own_tables) {
    auto* own = scratch.take<uint8_t>(tiles * isa_.own_bytes);
    isa_.own_tables(row->q, tiles, own);
    row->own = own;
  } else {
    auto* low = scratch.take<uint8_t>(tiles * 256);
    auto* high = scratch.take<int8_t>(tiles * 256);
    isa_.tables(row->q, tiles, low, high);
    row->low = low;
    row->high = high;
  }
}

}  // namespace flwr_edge
