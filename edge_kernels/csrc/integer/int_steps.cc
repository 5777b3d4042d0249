#include "int_steps.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace flwr_edge::integer {
namespace {

constexpr int64_t kChunk = 64;  // sums at a time

// Combines `lines` lines of n elements: element e of line l is x[l * line_step + e * step]. With
// kUnit step is 1, which the compiler makes vectors of.
template <bool kUnit, typename T, typename To>
void combine(const T* x, int64_t lines, int64_t line_step, int64_t n, int64_t step, int64_t zero,
             const Mean* mean, To* y, int64_t y_step) {
  const int64_t by = kUnit ? 1 : step;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    int32_t sums[kChunk];
    T most[kChunk];
    std::fill_n(sums, count, int32_t(-lines * zero));
    std::fill_n(most, count, T(0));
    for (int64_t line = 0; line < lines; ++line) {
      const T* from = x + line * line_step + begin * by;
      if (mean) {
        for (int64_t e = 0; e < count; ++e) sums[e] += from[e * by];
      } else {
        for (int64_t e = 0; e < count; ++e) {
          const T q = from[e * by], m = most[e];
          most[e] = m > q ? m : q;  // by value: the compiler makes vectors of it
        }
      }
    }
    constexpr int64_t top = std::numeric_limits<To>::max();
    for (int64_t e = 0; e < count; ++e) {
      y[(begin + e) * y_step] =
          To(mean ? rounded(sums[e] * mean->m, mean->shift, mean->zero, 0, top) : most[e]);
    }
  }
}

// Calls f with a value of the elements' type.
template <typename F>
void by_type(bool wide, const F& f) {
  if (wide) f(uint16_t());
  else f(uint8_t());
}

struct Lines {
  const uint8_t* x;
  int64_t at, lines, line_step, n, step, zero;
  bool wide;
};

void combine(const Lines& l, const Mean* mean, uint8_t* y, int64_t y_at, int64_t y_step,
             bool wide) {
  by_type(l.wide, [&](auto from) {
    by_type(wide, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      const auto run = l.step == 1 ? combine<true, From, To> : combine<false, From, To>;
      run(reinterpret_cast<const From*>(l.x) + l.at, l.lines, l.line_step, l.n, l.step, l.zero,
          mean, reinterpret_cast<To*>(y) + y_at, y_step);
    });
  });
}

template <typename T>
void copy_strided(const Value& from, const uint8_t* x_bytes, const Value& to, uint8_t* y_bytes) {
  const T* x = reinterpret_cast<const T*>(x_bytes);
  T* y = reinterpret_cast<T*>(y_bytes);
  for (int64_t i = 0; i < from.d0; ++i) {
    for (int64_t j = 0; j < from.d1; ++j) {
      y[i * to.stride0() + j * to.stride1()] = x[i * from.stride0() + j * from.stride1()];
    }
  }
}

}  // namespace

Source source(const Value& value, const uint8_t* x) {
  return {x, value.wide, int32_t(value.zero)};
}

Target target(const Instruction& i, uint8_t* y) {
  return {y, i.wide, int32_t(i.zero), i.relu ? int32_t(i.zero) : 0};
}

void copy(const Kernels& kernels, const Value& from, const uint8_t* x, const Value& to,
          uint8_t* y) {
  const bool dense = to.stride0() == (to.swapped ? 1 : from.d1) &&
                     to.stride1() == (to.swapped ? from.d0 : 1);  // not part of a larger one
  if (dense && from.swapped == to.swapped) {
    std::memcpy(y, x, from.bytes());
  } else if (from.element() == 4) {
    copy_strided<int32_t>(from, x, to, y);
  } else if (from.wide) {
    copy_strided<uint16_t>(from, x, to, y);
  } else if (!dense) {
    copy_strided<uint8_t>(from, x, to, y);
  } else if (to.swapped) {
    kernels.transpose(x, from.d0, from.d1, y);
  } else {
    kernels.transpose(x, from.d1, from.d0, y);
  }
}

void relu(const Value& value, const uint8_t* x, uint8_t* y) {
  by_type(value.wide, [&](auto type) {
    using T = decltype(type);
    const T* from = reinterpret_cast<const T*>(x);
    T* to = reinterpret_cast<T*>(y);
    for (int64_t i = 0; i < value.size(); ++i) to[i] = std::max(from[i], T(value.zero));
  });
}

void pool(const Instruction& i, const Value& from, const uint8_t* x, const Value& to,
          const int32_t* m, const int32_t* shift, int64_t step, uint8_t* y) {
  for (int64_t p = 0; p < to.d1; ++p) {
    const int64_t start = p * i.stride - i.pad_begin;
    const int64_t begin = std::max<int64_t>(start, 0), end = std::min(start + i.kernel, from.d1);
    Mean mean{};
    if (m) mean = {m[p * step], shift[p * step], int32_t(i.zero)};
    const Lines lines{x, begin * from.stride1(), end - begin, from.stride1(), from.d0,
                      from.stride0(), from.zero, from.wide};
    combine(lines, m ? &mean : nullptr, y, p * to.stride1(), to.stride0(), to.wide);
  }
}

Scale free_mean(const Scale& one, int64_t n) {
  const int bits = 63 - __builtin_clzll(uint64_t(n));
  return {((one.m << bits) + n / 2) / n, one.shift + bits};
}

void reduce(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int32_t* shift, uint8_t* y) {
  const bool first = i.axis == 0;
  Mean mean{};
  if (m) {
    Scale scale{*m, *shift};
    if (i.free_mean) scale = free_mean(scale, from.d0);
    mean = {scale.m, scale.shift, int32_t(i.zero)};
  }
  const Lines lines{x,
                    0,
                    first ? from.d0 : from.d1,
                    first ? from.stride0() : from.stride1(),
                    first ? from.d1 : from.d0,
                    first ? from.stride1() : from.stride0(),
                    from.zero,
                    from.wide};
  combine(lines, m ? &mean : nullptr, y, 0, 1, m ? i.wide : from.wide);
}

void add(const Kernels& kernels, const Instruction& i, const Value& x_value, const uint8_t* x,
         const Value& y_value, const uint8_t* y, uint8_t* to) {
  const Target all = target(i, to);
  if (x_value.swapped == y_value.swapped) {
    return kernels.add(source(x_value, x), i.m_x, source(y_value, y), i.m_y, int(i.shift),
                       x_value.size(), all);
  }
  // In the order of x, which the result has: lines of what lies together, of 64 at a time.
  const int64_t lines = x_value.swapped ? x_value.d1 : x_value.d0;
  const int64_t n = x_value.swapped ? x_value.d0 : x_value.d1;
  const int64_t line_step = x_value.swapped ? y_value.stride1() : y_value.stride0();
  const int64_t step = x_value.swapped ? y_value.stride0() : y_value.stride1();
  const size_t element = y_value.element();
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t begin = 0; begin < n; begin += kChunk) {
      const int64_t count = std::min(kChunk, n - begin), at = line * n + begin;
      alignas(8) uint8_t row[kChunk * 2];
      for (int64_t e = 0; e < count; ++e) {
        const int64_t from = line * line_step + (begin + e) * step;
        std::memcpy(row + size_t(e) * element, y + size_t(from) * element, element);
      }
      Target part = all;
      part.data = to + size_t(at) * (i.wide ? 2 : 1);
      kernels.add(source(x_value, x + size_t(at) * x_value.element()), i.m_x, source(y_value, row),
                  i.m_y, int(i.shift), count, part);
    }
  }
}

void affine(const Instruction& i, const Value& from, const uint8_t* x, const int32_t* m,
            const int64_t* t, uint8_t* y) {
  const int64_t low = i.relu ? i.zero : 0;
  const bool first = i.axis == 0;
  const int64_t channels = first ? from.d0 : from.d1, length = first ? from.d1 : 1;
  const int64_t c_step = first ? from.stride0() : 1, l_step = first ? from.stride1() : 0;
  by_type(from.wide, [&](auto x_type) {
    by_type(i.wide, [&](auto y_type) {
      const auto* u = reinterpret_cast<const decltype(x_type)*>(x);
      auto* z = reinterpret_cast<decltype(y_type)*>(y);
      constexpr int64_t top = std::numeric_limits<decltype(y_type)>::max();
      for (int64_t l = 0; l < length; ++l) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = c * c_step + l * l_step;
          const int64_t numerator = (u[at] - from.zero) * m[c] + t[c];
          z[at] = decltype(y_type)(rounded(numerator, int(i.shift), i.zero, low, top));
        }
      }
    });
  });
}

void table(const Kernels& kernels, const Value& from, const uint8_t* x, const int32_t* entries,
           const Value& to, uint8_t* y) {
  if (to.wide) {
    auto* wide = reinterpret_cast<uint16_t*>(y);
    for (int64_t i = 0; i < from.size(); ++i) wide[i] = uint16_t(entries[x[i]]);
    return;
  }
  uint8_t bytes[256];
  for (int i = 0; i < 256; ++i) bytes[i] = uint8_t(entries[i]);
  kernels.table(x, from.size(), bytes, y);
}

}  // namespace flwr_edge::integer
