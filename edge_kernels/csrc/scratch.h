// Memory for one call: cache-line aligned, in the stack frame where it is small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "layout.h"

namespace flwr_edge {

class Scratch {
 public:
  static constexpr size_t padded(size_t bytes) {
    return (bytes + (kLine - 1)) / kLine * kLine;
  }

  // `bytes`: the sum of what will be taken, each padded. Throws std::bad_alloc.
  explicit Scratch(size_t bytes) : next_(small_), end_(small_ + sizeof small_) {
    if (bytes <= sizeof small_) return;
    large_ = std::malloc(bytes + kLine);
    if (!large_) throw std::bad_alloc();
    const uintptr_t at = (reinterpret_cast<uintptr_t>(large_) + kLine - 1) / kLine * kLine;
    next_ = reinterpret_cast<uint8_t*>(at);
    end_ = next_ + bytes;
  }
  ~Scratch() { std::free(large_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialised.
  template <typename T>
  T* take(size_t count) {
    const size_t bytes = padded(count * sizeof(T));
    if (bytes > size_t(end_ - next_)) throw std::bad_alloc();
    T* taken = reinterpret_cast<T*>(next_);
    next_ += bytes;
    return taken;
  }

 private:
  alignas(kLine) uint8_t small_[16384];
  void* large_ = nullptr;
  uint8_t* next_;
  uint8_t* end_;
};

}  // namespace flwr_edge
