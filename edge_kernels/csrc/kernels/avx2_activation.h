// Activations: quantized, and their tables. Part of avx2_kernels.h.
#pragma once

#include "avx2_common.h"

namespace flwr_edge {
namespace {

INLINE int32_t sum_lanes(__m256i v) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

// The largest |x| of a tile, as float bits: those of NaN and infinity exceed all others.
INLINE int32_t largest_bits(const float* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < kTile; i += 8) {
    largest = _mm256_max_epi32(largest, _mm256_and_si256(load(x + i), magnitude));
  }
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

// Rounds four vectors of floats in [-127.5, 127.5] to int8; returns their sum.
INLINE int32_t round_32(const __m256 v[4], int8_t* to) {
  __m256i i[4];
  for (int k = 0; k < 4; ++k) i[k] = _mm256_cvtps_epi32(v[k]);
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]),
                                           _mm256_packs_epi32(i[2], i[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  store(to, _mm256_permutevar8x32_epi32(bytes, order));
  return sum_lanes(_mm256_add_epi32(_mm256_add_epi32(i[0], i[1]), _mm256_add_epi32(i[2], i[3])));
}

INLINE bool quantize_tile(const float* x, int8_t* q, float* scale, int32_t* sums) {
  const int32_t bits = largest_bits(x);
  if (bits >= 0x7f800000) return false;
  float largest;
  std::memcpy(&largest, &bits, 4);
  const bool zero = largest < 0x1p-100f;
  const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 127.0f / largest);
  *scale = zero ? 0.0f : largest / 127.0f;
  for (int half = 0; half < 2; ++half) {
    __m256 v[4];
    for (int k = 0; k < 4; ++k) {
      v[k] = _mm256_mul_ps(_mm256_loadu_ps(x + 32 * half + 8 * k), inverse);
    }
    sums[half] = round_32(v, q + 32 * half);
  }
  return true;
}

bool quantize(const float* x, int64_t inputs, int8_t* q, float* scale, int32_t* sums) {
  const int64_t whole = inputs / kTile;
  for (int64_t t = 0; t < whole; ++t) {
    if (!quantize_tile(x + t * kTile, q + t * kTile, scale + t, sums + 2 * t)) return false;
  }
  if (inputs == whole * kTile) return true;
  float tail[kTile] = {};
  std::memcpy(tail, x + whole * kTile, size_t(inputs - whole * kTile) * sizeof(float));
  return quantize_tile(tail, q + whole * kTile, scale + whole, sums + 2 * whole);
}

// Entries of two groups of four activations, int16: the first in the low lane, the second in the
// high one. Products with 0 and 1 select; entries 8..15 are entries 0..7 plus the last activation.
struct Entries {
  __m256i first, last;
};

INLINE Entries entries_of(const int8_t* eight) {
  int64_t value;
  std::memcpy(&value, eight, 8);
  const __m256i q = _mm256_set1_epi64x(value);
  const __m256i ahead = _mm256_setr_epi32(0x01000100, 0x01000100, 0x01000100, 0x01000100,
                                          0x05040504, 0x05040504, 0x05040504, 0x05040504);
  const __m256i after = _mm256_add_epi8(ahead, _mm256_set1_epi8(2));
  const __m256i select01 = _mm256_set1_epi64x(0x0101010000010000);
  const __m256i select2 = _mm256_setr_epi64x(0, 0x0001000100010001, 0, 0x0001000100010001);
  const __m256i a01 = _mm256_shuffle_epi8(q, ahead), a23 = _mm256_shuffle_epi8(q, after);
  const __m256i first = _mm256_add_epi16(_mm256_maddubs_epi16(select01, a01),
                                         _mm256_maddubs_epi16(select2, a23));
  return {first, _mm256_add_epi16(first, _mm256_srai_epi16(a23, 8))};
}

void tables(const int8_t* q, int64_t tiles, uint8_t* low, int8_t* high) {
  const __m256i six = _mm256_set1_epi16(63);
  for (int64_t at = 0; at < tiles * kTile; at += 8) {
    const Entries e = entries_of(q + at);
    store(low + 4 * at, _mm256_packus_epi16(_mm256_and_si256(e.first, six),
                                            _mm256_and_si256(e.last, six)));
    store(high + 4 * at, _mm256_packs_epi16(_mm256_srai_epi16(e.first, 6),
                                            _mm256_srai_epi16(e.last, 6)));
  }
}

INLINE int largest_entry(const Entries e[8]) {
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < 8; ++i) {
    largest = _mm256_max_epi16(largest, _mm256_max_epi16(_mm256_abs_epi16(e[i].first),
                                                         _mm256_abs_epi16(e[i].last)));
  }
  // The position of the least unsigned word is what the instruction set has; so complement.
  __m128i m = _mm_max_epi16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  m = _mm_minpos_epu16(_mm_xor_si128(m, _mm_set1_epi16(-1)));
  return 0xffff - (_mm_cvtsi128_si32(m) & 0xffff);
}

INLINE __m256 floats_of(__m128i words) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words));
}

// The same with minus where a bit is not set: twice the entry, less the entry of all four.
INLINE Entries signed_of(Entries e) {
  const __m256i last_word = _mm256_set1_epi16(0x0f0e);
  const __m256i all = _mm256_shuffle_epi8(e.last, last_word);
  return {_mm256_sub_epi16(_mm256_add_epi16(e.first, e.first), all),
          _mm256_sub_epi16(_mm256_add_epi16(e.last, e.last), all)};
}

void fast_tables(const int8_t* q, int64_t tiles, int8_t* fast, float* step) {
  for (int64_t t = 0; t < tiles; ++t) {
    Entries e[8];
    for (int i = 0; i < 8; ++i) e[i] = signed_of(entries_of(q + t * kTile + 8 * i));
    const int largest = largest_entry(e);
    step[t] = float(largest) / 126.0f;
    const __m256 inverse = _mm256_set1_ps(largest ? 63.0f / float(largest) : 0.0f);
    for (int i = 0; i < 8; ++i) {
      const __m128i parts[4] = {
          _mm256_castsi256_si128(e[i].first), _mm256_castsi256_si128(e[i].last),
          _mm256_extracti128_si256(e[i].first, 1), _mm256_extracti128_si256(e[i].last, 1)};
      __m256 v[4];
      for (int k = 0; k < 4; ++k) v[k] = _mm256_mul_ps(floats_of(parts[k]), inverse);
      round_32(v, fast + t * 256 + 32 * i);
    }
  }
}

}  // namespace
}  // namespace flwr_edge
