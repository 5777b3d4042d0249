// What the parsers of a network's program share: operands read one by one, each within its bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace flwr_edge {

constexpr size_t kMaxInstructions = 4096;
constexpr int64_t kMaxWork = int64_t(1) << 36;  // products a sample

inline bool in_range(int64_t x, int64_t low, int64_t high) { return low <= x && x <= high; }

class ProgramReader {
 protected:
  explicit ProgramReader(const std::vector<int64_t>& code) : code_(code) {}

  bool more() const { return at_ < code_.size(); }
  int64_t take() { return code_[at_++]; }  // where there is more

  // The next operand within [low, high].
  bool read(int64_t* to, int64_t low, int64_t high) {
    if (!more()) return false;
    *to = take();
    return in_range(*to, low, high);
  }

  bool read(bool* to) {
    int64_t flag;
    if (!read(&flag, 0, 1)) return false;
    *to = flag != 0;
    return true;
  }

 private:
  const std::vector<int64_t>& code_;
  size_t at_ = 0;
};

// Adds a * b * c, each of 1 to 2^28, to the work; false: too much.
inline bool spend(int64_t* work, int64_t a, int64_t b, int64_t c = 1) {
  if (b > kMaxWork / a || c > kMaxWork / (a * b)) return false;
  *work += a * b * c;
  return *work <= kMaxWork;
}

// Positions of a window's output, or 0. Operands are of at most 2^28.
template <typename Instruction>
int64_t positions(const Instruction& window, int64_t length) {
  const int64_t span = (window.kernel - 1) * window.dilation + 1;  // < 2^57
  const int64_t room = length + window.pad_begin + window.pad_end - span;
  return room < 0 ? 0 : room / window.stride + 1;
}

}  // namespace flwr_edge
