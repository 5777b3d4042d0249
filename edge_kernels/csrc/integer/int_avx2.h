// From sums to what a product writes, eight rows at a time: for units that are compiled for AVX2.
#pragma once

#include <cstring>
#include <immintrin.h>

#include "int_cells.h"

namespace flwr_edge::integer {
namespace {

constexpr int64_t kAhead = 1024;  // bytes of weights that are fetched before they are needed

inline __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// Eight rows of one activation, as words. Shifts are 32 or more: of a product only the upper half
// is looked at.
inline __m128i requantized(__m256i acc, const Job& job, int64_t block, int64_t half_block) {
  const Layer& layer = *job.layer;
  const int64_t row = block * kBlock + half_block * 8, half = block * kBlock + half_block * 4;
  if (layer.left) acc = _mm256_sllv_epi32(acc, load(layer.left + row));
  const __m256i m = load(layer.m + row);
  const __m256i even =
      _mm256_add_epi64(_mm256_mul_epi32(acc, m), load(layer.half + half));
  const __m256i odd = _mm256_add_epi64(
      _mm256_mul_epi32(_mm256_srli_epi64(acc, 32), _mm256_srli_epi64(m, 32)),
      load(layer.half + half + 8));
  const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  const __m256i shift = _mm256_sub_epi32(load(layer.shift + row), _mm256_set1_epi32(32));
  __m256i q = _mm256_add_epi32(_mm256_srav_epi32(high, shift), _mm256_set1_epi32(job.zero));
  q = _mm256_max_epi32(q, _mm256_set1_epi32(job.low));
  q = _mm256_min_epi32(q, _mm256_set1_epi32(job.top()));
  return _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
}

// Writes `count` of the 8 rows from half a block on; `sums`: their products'.
inline void store(const Job& job, __m256i sums, int64_t block, int64_t half, int64_t i, int64_t count) {
  const Layer& layer = *job.layer;
  const int64_t row = block * kBlock + half * 8, at = i * layer.rows + row;
  const __m256i acc = _mm256_add_epi32(sums, load(layer.start + row));
  if (!job.q && !job.q16) {
    alignas(32) int32_t out[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), acc);
    std::memcpy(job.acc + at, out, size_t(count) * 4);
    return;
  }
  const __m128i words = requantized(acc, job, block, half);
  alignas(16) uint8_t out[16];
  if (job.q16) {
    _mm_store_si128(reinterpret_cast<__m128i*>(out), words);
    std::memcpy(job.q16 + at, out, size_t(count) * 2);
    return;
  }
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (count == 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(job.q + at), bytes);
    return;
  }
  _mm_store_si128(reinterpret_cast<__m128i*>(out), bytes);
  std::memcpy(job.q + at, out, size_t(count));
}

}  // namespace
}  // namespace flwr_edge::integer
