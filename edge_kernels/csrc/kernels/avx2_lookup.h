// A tile times one row of activations. Part of avx2_kernels.h.
#pragma once

#include "avx2_common.h"

namespace flwr_edge {
namespace {

// Sums of a half's even and odd bytes, int16.
struct Sums {
  __m256i even, odd;
};

// Nibbles of one line of one plane, both halves.
struct Indices {
  __m256i low[2], high[2];
};

INLINE Indices indices_of(const uint8_t* line) {
  const __m256i nibble = _mm256_set1_epi8(15);
  Indices n;
  for (int h = 0; h < 2; ++h) {
    const __m256i codes = pinned(load(line + 32 * h));
    n.low[h] = _mm256_and_si256(codes, nibble);
    n.high[h] = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
  }
  return n;
}

// Sums of bytes, kept as (even + 256 odd, odd): no unpacking in the loop.
struct Wide {
  __m256i both = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
  INLINE void add(__m256i bytes) {
    both = add_words(both, bytes);
    odd = add_words(odd, _mm256_srli_epi16(bytes, 8));
  }
  INLINE __m256i even() const { return _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8)); }
};

// forget(): the compiler is not to keep a plane's tables for the next plane, on the stack.
struct ExactTables {
  const uint8_t* low;
  const int8_t* high;
  INLINE ExactTables at(int64_t entry) const { return {low + entry, high + entry}; }
  INLINE void forget() { __asm__ volatile("" : "+r"(low), "+r"(high)); }
};

struct FastTables {
  const int8_t* entries;
  INLINE FastTables at(int64_t entry) const { return {entries + entry}; }
  INLINE void forget() { __asm__ volatile("" : "+r"(entries)); }
};

// One plane of a segment (8 inputs a line) looked up. Two lines have four groups: their low parts
// add up to 252 at most, and the high parts of a whole tile to -128 at least.
template <int lines>
INLINE void look_up(const uint8_t* plane, ExactTables tables, Sums out[2]) {
  Wide wide[2];
  __m256i high[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 4
  for (int j = 0; j < lines; j += 2) {
    __m256i low[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 2
    for (int k = j; k < j + 2; ++k) {
      const Indices n = indices_of(plane + k * kLine);
      prefetch(plane + k * kLine);
      const __m256i low0 = load_table(tables.low + 32 * k);
      const __m256i high0 = load_table(tables.high + 32 * k);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        low[h] = add_bytes(low[h], _mm256_shuffle_epi8(low0, n.low[h]));
        high[h] = add_bytes(high[h], _mm256_shuffle_epi8(high0, n.low[h]));
      }
      const __m256i low1 = load_table(tables.low + 32 * k + 16);
      const __m256i high1 = load_table(tables.high + 32 * k + 16);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        low[h] = add_bytes(low[h], _mm256_shuffle_epi8(low1, n.high[h]));
        high[h] = add_bytes(high[h], _mm256_shuffle_epi8(high1, n.high[h]));
      }
    }
    for (int h = 0; h < 2; ++h) wide[h].add(low[h]);
  }
  const __m256i odd_byte = _mm256_set1_epi16(-256);
  for (int h = 0; h < 2; ++h) {
    const __m256i even64 = _mm256_srai_epi16(_mm256_slli_epi16(high[h], 8), 2);
    const __m256i odd64 = _mm256_srai_epi16(_mm256_and_si256(high[h], odd_byte), 2);
    out[h].even = _mm256_add_epi16(wide[h].even(), even64);
    out[h].odd = _mm256_add_epi16(wide[h].odd, odd64);
  }
}

// Sums of two entries fit a byte; 128 more, in the second table, makes them unsigned.
template <int lines>
INLINE void look_up(const uint8_t* plane, FastTables tables, Sums out[2]) {
  const __m256i bias = _mm256_set1_epi8(-128), all_bias = _mm256_set1_epi16(128 * lines);
  Wide wide[2];
#pragma GCC unroll 8
  for (int j = 0; j < lines; ++j) {
    const Indices n = indices_of(plane + j * kLine);
    prefetch(plane + j * kLine);
    const __m256i table0 = load_table(tables.entries + 32 * j);
    const __m256i table1 = _mm256_add_epi8(load_table(tables.entries + 32 * j + 16), bias);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      wide[h].add(_mm256_add_epi8(_mm256_shuffle_epi8(table0, n.low[h]),
                                  _mm256_shuffle_epi8(table1, n.high[h])));
    }
  }
  for (int h = 0; h < 2; ++h) {
    out[h].even = _mm256_sub_epi16(wide[h].even(), all_bias);
    out[h].odd = _mm256_sub_epi16(wide[h].odd, all_bias);
  }
}

// Sum over planes of 2^p times the looked-up sum, modulo 2^16.
template <int bits, int lines, typename Tables>
INLINE void look_up_planes(const uint8_t* codes, Tables tables, Sums out[2]) {
  look_up<lines>(codes + (bits - 1) * 8 * kLine, tables, out);
#pragma GCC unroll 1
  for (int p = bits - 2; p >= 0; --p) {
    Sums plane[2];
    tables.forget();
    look_up<lines>(codes + p * 8 * kLine, tables, plane);
    for (int h = 0; h < 2; ++h) {
      out[h].even = _mm256_add_epi16(_mm256_add_epi16(out[h].even, out[h].even), plane[h].even);
      out[h].odd = _mm256_add_epi16(_mm256_add_epi16(out[h].odd, out[h].odd), plane[h].odd);
    }
  }
}

// ---- From sums to acc

// A segment's numbers that all rows share.
struct Segment {
  float sa, step;      // step: fast mode only
  size_t ahead;        // prefetch_distance()
  int32_t s;           // S
  const uint8_t* scales;  // fp16 [64], null for group 0
  const uint8_t* zeros;   // fp16 [64], or float [64] for group 0; read with zero points only
};

// acc[row ..] += u sa scale; u stands for its product with what `sa` is divided by.
template <int group>
INLINE void add_scaled(const Segment& s, int row, __m256 u, __m256 sa, float* acc) {
  const __m256 old = _mm256_loadu_ps(acc + row);
  _mm256_storeu_ps(acc + row, group == 0 ? _mm256_fmadd_ps(u, sa, old)
                                         : _mm256_fmadd_ps(_mm256_mul_ps(u, sa),
                                                           load_halves(s.scales + 2 * row), old));
}

// What a code has to lose: value = code - zero; for 1 bit 2 code - 1.
template <int bits, Values values>
constexpr int fixed_zero() {
  return bits == 1 || values == Values::kTernary ? 1 : 1 << (bits - 1);
}

// Eight words in the upper halves of dwords -> 65536 times their value, as floats.
INLINE __m256 raised(__m256i dwords) { return _mm256_cvtepi32_ps(dwords); }

// The exact stage. The sum of values is in int16 even where the sum of codes is not, so the
// correction is made there, modulo 2^16; zero points get the codes' sum back in float, where it is
// exact. Words are raised to dwords by 16 bits, which the power of two in `sa` undoes exactly:
// sa is 0 or at least 2^-107.
template <int bits, Values values, int group>
INLINE void accumulate_exact(const Segment& s, Sums sums[2], float* acc) {
  constexpr int zero = fixed_zero<bits, values>();
  constexpr bool doubled = bits == 1 && values == Values::kSymmetric;
  const __m256i correction = _mm256_set1_epi16(int16_t(zero * s.s));
  const __m256 sa = _mm256_set1_ps(values == Values::kZeroPoints ? s.sa : s.sa * 0x1p-16f);
  const __m256 given_back = _mm256_set1_ps(float(zero * s.s));
  const __m256 minus_s = _mm256_set1_ps(-float(s.s));
  const __m256i none = _mm256_setzero_si256();
  for (int h = 0; h < 2; ++h) {
    for (int odd = 0; odd < 2; ++odd) {
      __m256i words = odd ? sums[h].odd : sums[h].even;
      if (doubled) words = _mm256_add_epi16(words, words);
      words = _mm256_sub_epi16(words, correction);
      for (int upper = 0; upper < 2; ++upper) {
        const int row = 32 * odd + 16 * upper + 8 * h;
        __m256 u = raised(upper ? _mm256_unpackhi_epi16(none, words)
                                : _mm256_unpacklo_epi16(none, words));
        if (values == Values::kZeroPoints) {
          const __m256 i = _mm256_fmadd_ps(u, _mm256_set1_ps(0x1p-16f), given_back);
          u = _mm256_fmadd_ps(load_zeros<group>(s.zeros, row), minus_s, i);
        }
        add_scaled<group>(s, row, u, sa, acc);
      }
    }
  }
}

template <int bits, Values values, int group>
INLINE void accumulate_fast(const Segment& s, Sums sums[2], float* acc) {
  // Halves of S that the sums lack, see isa.h.
  constexpr int halves = values == Values::kZeroPoints ? (1 << bits) - 1
                         : values == Values::kTernary  ? 1
                                                       : -1;
  const __m256 sa = _mm256_set1_ps(s.sa), step = _mm256_set1_ps(s.step * 0x1p-16f);
  const __m256 correction = _mm256_set1_ps(0.5f * float(halves * s.s));
  const __m256 minus_s = _mm256_set1_ps(-float(s.s));
  const __m256i none = _mm256_setzero_si256();
  for (int h = 0; h < 2; ++h) {
    for (int odd = 0; odd < 2; ++odd) {
      const __m256i words = odd ? sums[h].odd : sums[h].even;
      for (int upper = 0; upper < 2; ++upper) {
        const int row = 32 * odd + 16 * upper + 8 * h;
        const __m256 f = _mm256_mul_ps(raised(upper ? _mm256_unpackhi_epi16(none, words)
                                                    : _mm256_unpacklo_epi16(none, words)), step);
        const bool signs = bits == 1 && values == Values::kSymmetric;
        __m256 u = _mm256_add_ps(f, signs ? f : correction);
        if (values == Values::kZeroPoints) {
          u = _mm256_fmadd_ps(load_zeros<group>(s.zeros, row), minus_s, u);
        }
        add_scaled<group>(s, row, u, sa, acc);
      }
    }
  }
}

// ---- Dot products, 4 bits

// Adds the sums of so many times eight rows, from row `first` on.
template <Values values, int group, int count>
INLINE void accumulate_dots(const Segment& s, int first, const __m256i sums[count], float* acc) {
  const __m256i correction = _mm256_set1_epi32(8 * s.s);
  const __m256 sa = _mm256_set1_ps(s.sa), minus_s = _mm256_set1_ps(-float(s.s));
  for (int b = 0; b < count; ++b) {
    const int row = first + 8 * b;
    __m256 u;
    if (values == Values::kZeroPoints) {
      u = _mm256_fmadd_ps(load_zeros<group>(s.zeros, row), minus_s, _mm256_cvtepi32_ps(sums[b]));
    } else {
      u = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[b], correction));
    }
    add_scaled<group>(s, row, u, sa, acc);
  }
}

#ifdef FLWR_EDGE_VNNI
// Sums of four times eight rows; a line has eight inputs, four times a line's bytes apart.
template <int octets>
INLINE void dot_rows(const uint8_t* lines, const int8_t* q, size_t ahead, __m256i sums[4]) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i low[4], high[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) low[k] = high[k] = _mm256_setzero_si256();
  // A loop: unrolled, GCC has all activations in registers at once, and on the stack.
#pragma GCC unroll 1
  for (int j = 0; j < octets; ++j) {
    const __m256i a0 = four_bytes(q + 8 * j), a1 = four_bytes(q + 8 * j + 4);
    const uint8_t* line = lines + 4 * j * kLine;
    prefetch(line, ahead);
    prefetch(line + kLine, ahead);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m256i codes = pinned(load(line + 32 * k));
      low[k] = add_products(low[k], _mm256_and_si256(codes, nibble), a0);
      high[k] = add_products(high[k], _mm256_andnot_si256(nibble, codes), a1);  // 16 times
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) sums[k] = _mm256_add_epi32(low[k], _mm256_srai_epi32(high[k], 4));
}

template <Values values, int group>
INLINE void dot_segment(const Segment& s, const uint8_t* lines, const int8_t* q, float* acc) {
#pragma GCC unroll 2
  for (int first = 0; first < kTile; first += 32) {
    __m256i sums[4];
    dot_rows<group == 32 ? 4 : 8>(lines + 4 * first, q, s.ahead, sums);
    accumulate_dots<values, group, 4>(s, first, sums, acc);
  }
}
#else
// Sums of half a tile's inputs (16 lines) by rows, int32; block b holds rows 8b .. 8b + 7. Eight
// products of pairs, 15 * 127 * 2 at most, fit int16.
INLINE void dot_half(const uint8_t* lines, const int8_t* q, size_t ahead, __m256i sums[8]) {
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int b = 0; b < 8; b += 4) {
    __m256i pairs[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i a0 = four_bytes(q + 8 * j), a1 = four_bytes(q + 8 * j + 4);
      const uint8_t* line = lines + 4 * j * kLine + 32 * b;
      prefetch(line, ahead);
      prefetch(line + kLine, ahead);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m256i codes = load(line + 32 * k);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
        const __m256i p0 = _mm256_maddubs_epi16(_mm256_and_si256(codes, nibble), a0);
        const __m256i p1 = _mm256_maddubs_epi16(high, a1);
        pairs[k] = add_words(j ? add_words(pairs[k], p0) : p0, p1);
      }
    }
    for (int k = 0; k < 4; ++k) sums[b + k] = _mm256_madd_epi16(pairs[k], ones);
  }
}

template <Values values, int group>
INLINE void dot_segment(const Segment& s, const uint8_t* lines, const int8_t* q, float* acc) {
  __m256i sums[8];
  dot_half(lines, q, s.ahead, sums);
  if (group != 32) {
    __m256i more[8];
    dot_half(lines + 16 * kLine, q + 32, s.ahead, more);
    for (int b = 0; b < 8; ++b) sums[b] = _mm256_add_epi32(sums[b], more[b]);
  }
  accumulate_dots<values, group, 8>(s, 0, sums, acc);
}
#endif

}  // namespace
}  // namespace flwr_edge
