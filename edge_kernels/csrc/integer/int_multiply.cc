#include "int_multiply.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "int_steps.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kChunk = 64;  // numbers at a time

// A value as lines of the result's order of memory: number e of line l is at l * line + e * step,
// and where it is 1 long it stays.
class Lines {
 public:
  Lines(const Value& value, const uint8_t* x, bool swapped)
      : source_(source(value, x)), element_(value.element()) {
    const int64_t step0 = value.d0 == 1 ? 0 : value.stride0();
    const int64_t step1 = value.d1 == 1 ? 0 : value.stride1();
    line_ = swapped ? step1 : step0;
    step_ = swapped ? step0 : step1;
    data_ = x;
  }

  // Numbers begin to begin + n of a line: themselves where they lie together, or copied to a row.
  Source at(int64_t line, int64_t begin, int64_t n, uint8_t* row) const {
    const uint8_t* from = data_ + size_t(line * line_ + begin * step_) * element_;
    Source part = source_;
    part.data = from;
    if (step_ == 1) return part;
    if (element_ == 2) gather<uint16_t>(from, n, row);
    else gather<uint8_t>(from, n, row);
    part.data = row;
    return part;
  }

  bool together(int64_t n) const { return step_ == 1 && line_ == n; }
  bool dense() const { return step_ == 1; }

 private:
  template <typename T>
  void gather(const uint8_t* from, int64_t n, uint8_t* row) const {
    const T* x = reinterpret_cast<const T*>(from);
    T* y = reinterpret_cast<T*>(row);
    for (int64_t e = 0; e < n; ++e) y[e] = x[e * step_];
  }

  Source source_;
  size_t element_;
  const uint8_t* data_;
  int64_t line_, step_;
};

}  // namespace

void multiply(const Kernels& kernels, const Instruction& i, const Value& x_value, const uint8_t* x,
              const Value& y_value, const uint8_t* y, const Value& to_value, uint8_t* to) {
  const bool swapped = to_value.swapped;
  int64_t lines = swapped ? to_value.d1 : to_value.d0, n = swapped ? to_value.d0 : to_value.d1;
  const Lines u(x_value, x, swapped), v(y_value, y, swapped);
  if (u.together(n) && v.together(n)) n *= std::exchange(lines, 1);
  const int64_t most = u.dense() && v.dense() ? n : kChunk;
  const Scale scale{i.m_x, int(i.shift)};
  alignas(8) uint8_t rows[2][kChunk * 2];
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t begin = 0; begin < n; begin += most) {
      const int64_t count = std::min(most, n - begin);
      Target part = target(i, to);
      part.data = to + size_t(line * n + begin) * to_value.element();
      kernels.multiply(u.at(line, begin, count, rows[0]), v.at(line, begin, count, rows[1]), scale,
                       count, part);
    }
  }
}

void slice(const Instruction& i, const Value& from, const uint8_t* x, const Value& to,
           uint8_t* y) {
  const bool outer = from.swapped == (i.axis == 1);  // lines are taken whole
  const int64_t line = from.swapped ? from.d0 : from.d1, part = from.swapped ? to.d0 : to.d1;
  const int64_t lines = from.swapped ? to.d1 : to.d0;
  const size_t element = from.element();
  const uint8_t* begin = x + size_t(outer ? i.start * line : i.start) * element;
  if (outer || part == line) {
    std::memcpy(y, begin, to.bytes());
    return;
  }
  for (int64_t l = 0; l < lines; ++l) {
    std::memcpy(y + size_t(l * part) * element, begin + size_t(l * line) * element,
                size_t(part) * element);
  }
}

void constant(const int32_t* entries, const Value& to, uint8_t* y) {
  if (to.wide) std::copy_n(entries, to.size(), reinterpret_cast<uint16_t*>(y));
  else std::copy_n(entries, to.size(), y);
}

}  // namespace flwr_edge::integer
