// What a transformer does row by row besides products. Each instruction set's file compiles these
// loops for itself; they are written so that the compiler makes vectors of them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "int_kernels.h"

namespace flwr_edge::integer {
namespace {

// As >>, of any number, where there is no such instruction for 64 bits (AVX2).
inline int64_t shifted(int64_t numerator, int shift) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  constexpr uint64_t kSign = uint64_t(1) << 63;
  return int64_t(((uint64_t(numerator) + kSign) >> shift) - (kSign >> shift));
#else
  return numerator >> shift;
#endif
}

struct Rounding {
  int64_t half, zero, low, top;
  int shift;
  template <typename To>
  To to(int64_t numerator) const {
    int64_t q = shifted(numerator + half, shift) + zero;
    q = q < low ? low : q;
    return To(q > top ? top : q);
  }
};

Rounding rounding(int shift, const Target& to) {
  return {int64_t(1) << (shift - 1), to.zero, to.low, to.wide ? 65535 : 255, shift};
}

// Calls f with null pointers of the element types of what is read and written.
template <typename F>
void by_type(bool wide, const F& f) {
  if (wide) f(static_cast<uint16_t*>(nullptr));
  else f(static_cast<uint8_t*>(nullptr));
}

template <typename T>
const T* numbers(const Source& x, T*) {
  return static_cast<const T*>(x.data);
}
template <typename T>
T* numbers(const Target& y, T*) {
  return static_cast<T*>(y.data);
}

void add_rows(const Source& x, int64_t m_x, const Source& y, int64_t m_y, int shift, int64_t n,
              const Target& to) {
  const Rounding round = rounding(shift, to);
  const auto a = int32_t(m_x), b = int32_t(m_y);
  by_type(x.wide, [&](auto* x_type) {
    by_type(y.wide, [&](auto* y_type) {
      by_type(to.wide, [&](auto* to_type) {
        const auto* u = numbers(x, x_type);
        const auto* v = numbers(y, y_type);
        auto* z = numbers(to, to_type);
        const Rounding by = round;
        const int32_t u_zero = x.zero, v_zero = y.zero;
        for (int64_t i = 0; i < n; ++i) {
          const int64_t sum = int64_t(int32_t(u[i]) - u_zero) * a +
                              int64_t(int32_t(v[i]) - v_zero) * b;
          z[i] = by.template to<std::remove_pointer_t<decltype(to_type)>>(sum);
        }
      });
    });
  });
}

// What two centred numbers make: of 16 bits each it needs 33 bits.
template <typename T, typename U>
using Centred = std::conditional_t<sizeof(T) + sizeof(U) == 4, int64_t, int32_t>;

void multiply_rows(const Source& x, const Source& y, const Scale& scale, int64_t n,
                   const Target& to) {
  const Rounding round = rounding(scale.shift, to);
  const auto m = int32_t(scale.m);
  by_type(x.wide, [&](auto* x_type) {
    by_type(y.wide, [&](auto* y_type) {
      by_type(to.wide, [&](auto* to_type) {
        using X = std::remove_pointer_t<decltype(x_type)>;
        using Wide = Centred<X, std::remove_pointer_t<decltype(y_type)>>;
        const auto* u = numbers(x, x_type);
        const auto* v = numbers(y, y_type);
        auto* z = numbers(to, to_type);
        const Rounding by = round;
        const int32_t u_zero = x.zero, v_zero = y.zero;
        for (int64_t i = 0; i < n; ++i) {
          const Wide product = Wide(int32_t(u[i]) - u_zero) * Wide(int32_t(v[i]) - v_zero);
          z[i] = by.template to<std::remove_pointer_t<decltype(to_type)>>(int64_t(product) * m);
        }
      });
    });
  });
}

void rescale_rows(const Source& x, const Scale& scale, int64_t n, const Target& to) {
  const Rounding round = rounding(scale.shift, to);
  const auto m = int32_t(scale.m);
  by_type(x.wide, [&](auto* x_type) {
    by_type(to.wide, [&](auto* to_type) {
      const auto* u = numbers(x, x_type);
      auto* z = numbers(to, to_type);
      const Rounding by = round;
      const int32_t zero = x.zero;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t numerator = int64_t(int32_t(u[i]) - zero) * m;
        z[i] = by.template to<std::remove_pointer_t<decltype(to_type)>>(numerator);
      }
    });
  });
}

// The square root of a number below 2^62, rounded down.
inline uint64_t root(uint64_t number) {
  uint64_t result = 0;
  for (uint64_t bit = uint64_t(1) << 30; bit; bit >>= 1) {
    const uint64_t next = result | bit;
    if (next * next <= number) result = next;
  }
  return result;
}

// 1 / sqrt(w) is nearly the result times 2^(e - 61); 0 for 0.
inline int32_t inverse_root(uint64_t w, int* e) {
  *e = 0;
  if (w == 0) return 0;
  *e = (62 - (64 - __builtin_clzll(w))) / 2;
  return int32_t(((uint64_t(1) << 61) - 1) / root(w << (2 * *e)));
}

constexpr int kNormBits = 20;

template <typename T, typename To>
void norm_row(const T* x, int32_t zero, const NormScale& scale, int64_t n, const Rounding& by,
              int32_t* room, To* y) {
  int64_t sum = 0;
  uint64_t squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = int32_t(x[i]) - zero;
    sum += c;
    squares += uint64_t(uint32_t(c) * uint32_t(c));  // below 2^32
  }
  if (scale.rms) sum = 0;
  int e;
  const auto count = int32_t(n);
  const int32_t r =
      inverse_root(uint64_t(n) * squares - uint64_t(sum * sum) + uint64_t(scale.epsilon), &e);
  const int shift = 61 - kNormBits - e;
  const int64_t half = int64_t(1) << (shift - 1);
  const auto less = int32_t(sum);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t d = count * (int32_t(x[i]) - zero) - less;  // below 2^30
    room[i] = int32_t(shifted(int64_t(d) * r + half, shift));
  }
  for (int64_t i = 0; i < n; ++i) {
    y[i] = by.template to<To>(int64_t(room[i]) * scale.m[i] + scale.t[i]);
  }
}

void norm_rows(const Source& x, const NormScale& scale, int64_t rows, int64_t n, int32_t* room,
               const Target& to) {
  const Rounding by = rounding(scale.shift, to);
  by_type(x.wide, [&](auto* x_type) {
    by_type(to.wide, [&](auto* to_type) {
      for (int64_t row = 0; row < rows; ++row) {
        norm_row(numbers(x, x_type) + row * n, x.zero, scale, n, by, room,
                 numbers(to, to_type) + row * n);
      }
    });
  });
}

constexpr int32_t kExponential[] = {32768, 22663, 7575, 1298};
constexpr int32_t kVanished = 17;

int64_t exponential_rows(const int32_t* scores, int64_t n, const Scale& scale, int32_t limit,
                         uint8_t* high, uint8_t* low) {
  int32_t most = scores[0];
  for (int64_t i = 1; i < n; ++i) most = scores[i] > most ? scores[i] : most;
  const auto m = uint32_t(scale.m);
  const int shift = scale.shift;
  int64_t total = 0;
  constexpr int64_t kChunk = 1024;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = begin + kChunk < n ? begin + kChunk : n;
    int32_t sum = 0;  // of 2^10 numbers up to 2^15
    for (int64_t i = begin; i < end; ++i) {
      int32_t delta = most - scores[i];
      delta = delta < limit ? delta : limit;
      auto u = int32_t((uint64_t(uint32_t(delta)) * m) >> shift);
      u = u < (kVanished << 16) ? u : (kVanished << 16);
      const int32_t f = u & 0xffff, by = u >> 16;
      int32_t w = kExponential[2] - ((f * kExponential[3]) >> 16);
      w = kExponential[1] - ((f * w) >> 16);
      w = kExponential[0] - ((f * w) >> 16);
      const int32_t p = (w + ((1 << by) >> 1)) >> by;
      sum += p;
      high[i] = uint8_t(p >> 8);
      low[i] = uint8_t(p);
    }
    total += sum;
  }
  return total;
}

void weighted_rows(const Weighted& row, int64_t n, const Target& to) {
  const Rounding round = rounding(row.scale.shift, to);
  by_type(to.wide, [&](auto* to_type) {
    auto* z = numbers(to, to_type);
    const Rounding by = round;
    const auto m = int32_t(row.scale.m);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t sum = int64_t(row.high[i]) * 256 + row.low[i] + row.offset;
      const auto less = int32_t(shifted(sum, row.less));
      z[i] = by.template to<std::remove_pointer_t<decltype(to_type)>>(int64_t(less) * m);
    }
  });
}

[[maybe_unused]] void table_rows(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[x[i]];
}

}  // namespace
}  // namespace flwr_edge::integer
