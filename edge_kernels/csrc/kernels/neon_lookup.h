// NEON: sums of looked-up entries.
#pragma once

#include <arm_neon.h>

#include "isa.h"

namespace flwr_edge {
namespace {

constexpr int kQuads = kTile / 4;  // vectors of four rows in a tile

// A number for each of 64 rows, in natural order.
struct Rows {
  int32x4_t quads[kQuads];
};

// Sums of bytes of a line's four vectors by parity, modulo 2^16: odd[v] of the odd bytes,
// words[v] of whole words, so even bytes' are words[v] - (odd[v] << 8): two instructions a vector.
struct Parity {
  uint16x8_t words[4], odd[4];

  void clear() {
    for (int v = 0; v < 4; ++v) words[v] = odd[v] = vdupq_n_u16(0);
  }
  void twice() {
    for (int v = 0; v < 4; ++v) {
      words[v] = vshlq_n_u16(words[v], 1);
      odd[v] = vshlq_n_u16(odd[v], 1);
    }
  }
  void add(int v, uint8x16_t bytes) {
    words[v] = vaddq_u16(words[v], vreinterpretq_u16_u8(bytes));
    odd[v] = vsraq_n_u16(odd[v], vreinterpretq_u16_u8(bytes), 8);
  }
  void add_times_64(int v, uint8x16_t bytes) {
    const uint16x8_t as_words = vreinterpretq_u16_u8(bytes);
    words[v] = vaddq_u16(words[v], vshlq_n_u16(as_words, 6));
    odd[v] = vaddq_u16(odd[v], vshlq_n_u16(vshrq_n_u16(as_words, 8), 6));
  }
  // Less `bias` (modulo 2^16 too) this must fit int16. plane_row() makes the order natural.
  void widen(int32_t bias, Rows* out) const {
    const uint16x8_t less = vdupq_n_u16(uint16_t(bias));
    for (int v = 0; v < 4; ++v) {
      const uint16x8_t even_rows = vsubq_u16(words[v], vshlq_n_u16(odd[v], 8));
      const int16x8_t even = vreinterpretq_s16_u16(vsubq_u16(even_rows, less));
      const int16x8_t uneven = vreinterpretq_s16_u16(vsubq_u16(odd[v], less));
      out->quads[v] = vmovl_s16(vget_low_s16(even));
      out->quads[4 + v] = vmovl_high_s16(even);
      out->quads[8 + v] = vmovl_s16(vget_low_s16(uneven));
      out->quads[12 + v] = vmovl_high_s16(uneven);
    }
  }
};

uint8x16_t look_up(uint8x16_t line, uint8x16_t table, uint8x16_t next_table) {
  return vaddq_u8(vqtbl1q_u8(table, vandq_u8(line, vdupq_n_u8(15))),
                  vqtbl1q_u8(next_table, vshrq_n_u8(line, 4)));
}

constexpr int kHighBias = 128;  // makes sums of sixteen high parts, -128..112, unsigned bytes
constexpr int kFastBias = 64;   // makes fast entries unsigned, and two of them fit a byte

void add_plane(const uint8_t* plane, int lines, const uint8_t* low, const int8_t* high,
               Parity* sums) {
  uint8x16_t highs[4];
  for (uint8x16_t& sum : highs) sum = vdupq_n_u8(kHighBias);
  for (int j = 0; j < lines; j += 2) {
    uint8x16_t lows[4], tops[4];
    for (int g = 0; g < 4; ++g) {
      lows[g] = vld1q_u8(low + (2 * j + g) * 16);
      tops[g] = vreinterpretq_u8_s8(vld1q_s8(high + (2 * j + g) * 16));
    }
    for (int v = 0; v < 4; ++v) {
      const uint8x16_t one = vld1q_u8(plane + j * kLine + 16 * v);
      const uint8x16_t two = vld1q_u8(plane + (j + 1) * kLine + 16 * v);
      // Four low parts, at most 63 each, fit a byte.
      sums->add(v, vaddq_u8(look_up(one, lows[0], lows[1]), look_up(two, lows[2], lows[3])));
      highs[v] = vaddq_u8(highs[v], look_up(one, tops[0], tops[1]));
      highs[v] = vaddq_u8(highs[v], look_up(two, tops[2], tops[3]));
    }
  }
  for (int v = 0; v < 4; ++v) sums->add_times_64(v, highs[v]);
}

void add_plane_fast(const uint8_t* plane, int lines, const int8_t* fast, Parity* sums) {
  const int8x16_t bias = vdupq_n_s8(kFastBias);
  for (int j = 0; j < lines; ++j) {
    const int8x16_t table = vaddq_s8(vld1q_s8(fast + 2 * j * 16), bias);
    const int8x16_t next = vaddq_s8(vld1q_s8(fast + (2 * j + 1) * 16), bias);
    for (int v = 0; v < 4; ++v) {
      const uint8x16_t line = vld1q_u8(plane + j * kLine + 16 * v);
      sums->add(v, look_up(line, vreinterpretq_u8_s8(table), vreinterpretq_u8_s8(next)));
    }
  }
}

}  // namespace
}  // namespace flwr_edge
