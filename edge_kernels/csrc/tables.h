// Lookup tables of a call's rows of activations.
#pragma once

#include <list>
#include <mutex>
#include <optional>

#include "isa.h"
#include "scratch.h"

namespace flwr_edge {

// Rows whose tables are made at a time.
constexpr int64_t kTableRows = 16;

// Each thread makes its own, once a call: to fetch them from another core's cache takes longer.
class Tables {
 public:
  // `rows`: `count` of them, quantized; those with `finite` 0 get none. All must outlive this.
  Tables(const Isa& isa, const Weights& weights, bool fast, const Activation* rows,
         const uint8_t* finite, int64_t count);

  // The rows with what gemv looks up; on any thread. Throws std::bad_alloc.
  const Activation* of_this_thread();

  // Of one row; 0 where gemv looks nothing up.
  static size_t bytes(const Isa& isa, const Weights& weights, bool fast);

 private:
  struct Set {
    const void* thread = nullptr;  // whose it is
    std::optional<Scratch> scratch;
    bool ready = false;
    Activation rows[kTableRows];
  };

  Set& claim(const void* thread);
  void fill(Set& set) const;
  void make(Scratch& scratch, Activation* row) const;

  const Isa& isa_;
  const Weights& weights_;
  const bool fast_;
  const Activation* rows_;
  const uint8_t* finite_;
  const int64_t count_;
  const size_t bytes_;
  std::mutex mutex_;       // for whose the sets are; what a set holds is its thread's alone
  Set first_;              // in place: mostly there is one thread
  std::list<Set> others_;  // whose addresses stay
};

}  // namespace flwr_edge
