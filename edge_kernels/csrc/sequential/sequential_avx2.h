// What LutSequential's kernels for AVX2 share, with AVX-VNNI and without: all but the product.
#pragma once

#include <cstring>
#include <immintrin.h>

#include "sequential_kernels.h"

namespace flwr_edge {
namespace {

constexpr int64_t kBlockBytes = kBlock * kStep;
constexpr int kHalf = 8;  // rows of a vector

// What the rows from `row` on need of the layer.
struct Lines {
  const int8_t* values;
  const int32_t* starts;
  const float *scales, *zeros, *row_scales, *bias;
  int64_t row;
};

Lines lines_of(const Dense& layer, int64_t row) {
  const int64_t block = row / kBlock, half = row % kBlock;
  const int64_t segment = block * layer.segments * kBlock + half;
  return {layer.values + block * layer.steps * kBlockBytes + half * kStep,
          layer.starts + segment,
          layer.scales ? layer.scales + segment : nullptr,
          layer.zeros ? layer.zeros + segment : nullptr,
          layer.row_scales ? layer.row_scales + row : nullptr,
          layer.bias + row,
          row};
}

__m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

__m256i broadcast_step(const uint8_t* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}

__m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count < kHalf ? count : kHalf)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

uint32_t reduce(__m256i v) {
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
  uint32_t most = 0;
  for (int i = 0; i < 8; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

uint32_t largest(const float* x, int64_t n) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    most = _mm256_max_epu32(most, _mm256_and_si256(load(x + i), magnitude));
  }
  uint32_t result = reduce(most);
  for (; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    result = bits > result ? bits : result;
  }
  return result;
}

// Eight values, in the low bytes.
__m128i quantized(const float* x, __m256i mask, __m256 inverse) {
  const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_maskload_ps(x, mask), inverse));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  return _mm_xor_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(-128));
}

void store_first(uint8_t* to, __m128i bytes, int64_t count) {
  alignas(16) uint8_t all[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(all), bytes);
  for (int64_t i = 0; i < count; ++i) to[i] = all[i];
}

void quantize(const float* x, int64_t n, float inverse, uint8_t* q) {
  const __m256 by = _mm256_set1_ps(inverse);
  const __m256i all = _mm256_set1_epi32(-1);
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), quantized(x + i, all, by));
  }
  if (i < n) store_first(q + i, quantized(x + i, first_lanes(n - i), by), n - i);
}

void quantize_transposed(const float* x, int64_t d0, int64_t d1, float inverse, uint8_t* q) {
  const __m256 by = _mm256_set1_ps(inverse);
  for (int64_t j = 0; j < d1; j += kHalf) {
    const int64_t count = d1 - j < kHalf ? d1 - j : kHalf;
    const __m256i mask = first_lanes(count);
    int64_t i = 0;
    for (; i + 4 <= d0; i += 4) {  // four channels' bytes become one position's dword
      __m128i c[4];
      for (int k = 0; k < 4; ++k) c[k] = quantized(x + (i + k) * d1 + j, mask, by);
      const __m128i low = _mm_unpacklo_epi8(c[0], c[1]), high = _mm_unpacklo_epi8(c[2], c[3]);
      alignas(16) uint8_t fours[32];
      _mm_store_si128(reinterpret_cast<__m128i*>(fours), _mm_unpacklo_epi16(low, high));
      _mm_store_si128(reinterpret_cast<__m128i*>(fours + 16), _mm_unpackhi_epi16(low, high));
      for (int64_t k = 0; k < count; ++k) std::memcpy(q + (j + k) * d0 + i, fours + 4 * k, 4);
    }
    for (; i < d0; ++i) {
      uint8_t column[kHalf];
      store_first(column, quantized(x + i * d1 + j, mask, by), kHalf);
      for (int64_t k = 0; k < count; ++k) q[(j + k) * d0 + i] = column[k];
    }
  }
}

void reduce(bool largest, const float* x, int64_t lines, int64_t step, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kHalf) {
    const __m256i mask = first_lanes(n - i);
    __m256 result = _mm256_maskload_ps(x + i, mask);
    for (int64_t k = 1; k < lines; ++k) {
      const __m256 line = _mm256_maskload_ps(x + k * step + i, mask);
      if (largest) {
        const __m256 more = _mm256_cmp_ps(line, result, _CMP_GT_OQ);
        const __m256 odd = _mm256_cmp_ps(line, line, _CMP_UNORD_Q);
        result = _mm256_blendv_ps(result, line, _mm256_or_ps(more, odd));
      } else {
        result = _mm256_add_ps(result, line);
      }
    }
    _mm256_maskstore_ps(y + i, mask, result);
  }
}

}  // namespace
}  // namespace flwr_edge
