#include "int_steps.h"

#include <algorithm>
#include <cstring>

namespace flwr_edge::integer {
namespace {

constexpr int64_t kChunk = 64;  // sums at a time

// Combines `lines` lines of n elements: element e of line l is x[l * line_step + e * step]. With
// kUnit step is 1, which the compiler makes vectors of.
template <bool kUnit>
void combine(const uint8_t* x, int64_t lines, int64_t line_step, int64_t n, int64_t step,
             int64_t zero, const Mean* mean, uint8_t* y, int64_t y_step) {
  const int64_t by = kUnit ? 1 : step;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    int32_t sums[kChunk];
    uint8_t most[kChunk];
    std::fill_n(sums, count, int32_t(-lines * zero));
    std::fill_n(most, count, uint8_t(0));
    for (int64_t line = 0; line < lines; ++line) {
      const uint8_t* from = x + line * line_step + begin * by;
      if (mean) {
        for (int64_t e = 0; e < count; ++e) sums[e] += from[e * by];
      } else {
        for (int64_t e = 0; e < count; ++e) {
          const uint8_t q = from[e * by], m = most[e];
          most[e] = m > q ? m : q;  // by value: the compiler makes vectors of it
        }
      }
    }
    for (int64_t e = 0; e < count; ++e) {
      y[(begin + e) * y_step] =
          mean ? rounded(sums[e] * mean->m, mean->shift, mean->zero, 0) : most[e];
    }
  }
}

void combine(const uint8_t* x, int64_t lines, int64_t line_step, int64_t n, int64_t step,
             int64_t zero, const Mean* mean, uint8_t* y, int64_t y_step) {
  (step == 1 ? combine<true> : combine<false>)(x, lines, line_step, n, step, zero, mean, y, y_step);
}

template <typename T>
void copy_strided(const Value& from, const T* x, const Value& to, T* y) {
  for (int64_t i = 0; i < from.d0; ++i) {
    for (int64_t j = 0; j < from.d1; ++j) {
      y[i * to.stride0() + j * to.stride1()] = x[i * from.stride0() + j * from.stride1()];
    }
  }
}

}  // namespace

void copy(const Kernels& kernels, const Value& from, const uint8_t* x, const Value& to,
          uint8_t* y) {
  const bool dense = to.stride0() == (to.swapped ? 1 : from.d1) &&
                     to.stride1() == (to.swapped ? from.d0 : 1);  // not part of a larger one
  if (!dense) return copy_strided(from, x, to, y);
  if (from.swapped == to.swapped) {
    std::memcpy(y, x, size_t(from.size()));
  } else if (to.swapped) {
    kernels.transpose(x, from.d0, from.d1, y);
  } else {
    kernels.transpose(x, from.d1, from.d0, y);
  }
}

void copy_accumulators(const Value& from, const int32_t* x, const Value& to, int32_t* y) {
  copy_strided(from, x, to, y);
}

void relu(const uint8_t* x, int64_t n, int64_t zero, uint8_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = std::max(x[i], uint8_t(zero));
}

void pool(const Instruction& i, const Value& from, const uint8_t* x, const Value& to,
          const int32_t* m, const int32_t* shift, int64_t step, uint8_t* y) {
  for (int64_t p = 0; p < to.d1; ++p) {
    const int64_t start = p * i.stride - i.pad_begin;
    const int64_t begin = std::max<int64_t>(start, 0), end = std::min(start + i.kernel, from.d1);
    Mean mean{};
    if (m) mean = {m[p * step], shift[p * step], int32_t(i.zero)};
    combine(x + begin * from.stride1(), end - begin, from.stride1(), from.d0, from.stride0(),
            from.zero, m ? &mean : nullptr, y + p * to.stride1(), to.stride0());
  }
}

void reduce(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int32_t* shift, uint8_t* y) {
  Mean mean{};
  if (m) mean = {*m, *shift, int32_t(i.zero)};
  const bool first = i.axis == 0;
  combine(x, first ? from.d0 : from.d1, first ? from.stride0() : from.stride1(),
          first ? from.d1 : from.d0, first ? from.stride1() : from.stride0(), from.zero,
          m ? &mean : nullptr, y, 1);
}

void add(const Instruction& i, const Value& x_value, const uint8_t* x, const Value& y_value,
         const uint8_t* y, uint8_t* to) {
  const int32_t low = i.relu ? int32_t(i.zero) : 0;
  // The order of x, which the result has: lines of what lies together.
  const int64_t lines = x_value.swapped ? x_value.d1 : x_value.d0;
  const int64_t n = x_value.swapped ? x_value.d0 : x_value.d1;
  const int64_t line_step = x_value.swapped ? y_value.stride1() : y_value.stride0();
  const int64_t step = x_value.swapped ? y_value.stride0() : y_value.stride1();
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t e = 0; e < n; ++e) {
      const int64_t at = line * n + e;
      const int64_t sum = (x[at] - x_value.zero) * i.m_x +
                          (y[line * line_step + e * step] - y_value.zero) * i.m_y;
      to[at] = rounded(sum, int(i.shift), int32_t(i.zero), low);
    }
  }
}

void affine(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int64_t* t, uint8_t* y) {
  const int32_t low = i.relu ? int32_t(i.zero) : 0;
  const bool first = i.axis == 0;
  const int64_t channels = first ? from.d0 : from.d1, length = first ? from.d1 : 1;
  const int64_t c_step = first ? from.stride0() : 1, l_step = first ? from.stride1() : 0;
  for (int64_t l = 0; l < length; ++l) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = c * c_step + l * l_step;
      y[at] = rounded((x[at] - from.zero) * m[c] + t[c], int(i.shift), int32_t(i.zero), low);
    }
  }
}

}  // namespace flwr_edge::integer
