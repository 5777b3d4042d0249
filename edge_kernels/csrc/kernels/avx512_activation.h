// Quantizing activations and building lookup tables. Part of avx512_kernels.h.
#pragma once

namespace flwr_edge {
namespace {

// Sums of the first and of the last 32 bytes, signed.
FLWR_INLINE void half_sums(__m512i q, int32_t* sums) {
  const __m512i biased = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  const __m512i eights = _mm512_sad_epu8(biased, _mm512_setzero_si512());
  const __m256i pairs =
      _mm512_cvtepi64_epi32(_mm512_add_epi64(eights, _mm512_alignr_epi64(eights, eights, 1)));
  sums[0] = _mm256_extract_epi32(pairs, 0) + _mm256_extract_epi32(pairs, 2) - 32 * 128;
  sums[1] = _mm256_extract_epi32(pairs, 4) + _mm256_extract_epi32(pairs, 6) - 32 * 128;
}

bool quantize(const float* x, int64_t inputs, int8_t* q, float* scale, int32_t* sums) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t t = 0; t * kTile < inputs; ++t) {
    const int64_t left = inputs - t * kTile;
    const __mmask64 valid = left >= kTile ? ~0ull : (1ull << left) - 1;
    __m512 v[4];
    __m512i largest_bits = _mm512_setzero_si512();
    FLWR_UNROLL
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm512_maskz_loadu_ps(__mmask16(valid >> (16 * i)), x + t * kTile + 16 * i);
      // Magnitudes of floats order as integers do, infinity and NaN above all others.
      largest_bits = _mm512_max_epi32(
          largest_bits, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
    }
    const int32_t top = _mm512_reduce_max_epi32(largest_bits);
    if (top >= 0x7f800000) return false;
    const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(top)));
    const bool zero = largest < 0x1p-100f;
    const __m512 inverse = _mm512_set1_ps(zero ? 0.0f : 127.0f / largest);
    scale[t] = zero ? 0.0f : largest / 127.0f;
    FLWR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + t * kTile + 16 * i),
                       _mm512_cvtepi32_epi8(value));
    }
    half_sums(load(q + t * kTile), sums + 2 * t);
  }
  return true;
}

// The sums of four groups of four inputs: lane g of *first holds entries 0..7 of group g as int16,
// of *last entries 8..15.
FLWR_INLINE void entries(const int8_t* sixteen, __m512i* first, __m512i* last) {
  const __m512i inputs = load_lanes(sixteen);
  const __m512i group = _mm512_set_epi32(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
  const __m512i lane = _mm512_mullo_epi32(group, _mm512_set1_epi32(0x01010101));
  const __m512i pair01 =
      _mm512_shuffle_epi8(inputs, _mm512_add_epi8(lane, _mm512_set1_epi16(0x0100)));
  const __m512i pair23 =
      _mm512_shuffle_epi8(inputs, _mm512_add_epi8(lane, _mm512_set1_epi16(0x0302)));
  const __m512i bits01 = _mm512_set4_epi32(0x01010100, 0x00010000, 0x01010100, 0x00010000);
  const __m512i bits2 = _mm512_set4_epi32(0x00010001, 0x00010001, 0, 0);
  const __m512i bits23 = _mm512_or_si512(bits2, _mm512_set1_epi16(0x0100));
  const __m512i low = _mm512_maddubs_epi16(bits01, pair01);
  *first = _mm512_add_epi16(low, _mm512_maddubs_epi16(bits2, pair23));
  *last = _mm512_add_epi16(low, _mm512_maddubs_epi16(bits23, pair23));
}

[[maybe_unused]] void tables(const int8_t* q, int64_t tiles, uint8_t* low, int8_t* high) {
  const __m512i six = _mm512_set1_epi16(63);
  for (int64_t at = 0; at < tiles * kTile; at += 16) {
    __m512i first, last;
    entries(q + at, &first, &last);
    _mm512_storeu_si512(low + 4 * at, _mm512_packus_epi16(_mm512_and_si512(first, six),
                                                          _mm512_and_si512(last, six)));
    _mm512_storeu_si512(high + 4 * at, _mm512_packs_epi16(_mm512_srai_epi16(first, 6),
                                                          _mm512_srai_epi16(last, 6)));
  }
}

// Sixteen sums scaled and rounded to int8.
FLWR_INLINE __m128i rounded(__m256i sums, __m512 inverse) {
  const __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(sums));
  return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(wide, inverse)));
}

// In the order of `entries`: the first words of lane g go to bytes 0..7 of its sixteen.
FLWR_INLINE __m512i rounded_entries(__m512i first, __m512i last, __m512 inverse) {
  const __m256i a = _mm256_set_m128i(rounded(_mm512_extracti64x4_epi64(first, 1), inverse),
                                     rounded(_mm512_castsi512_si256(first), inverse));
  const __m256i b = _mm256_set_m128i(rounded(_mm512_extracti64x4_epi64(last, 1), inverse),
                                     rounded(_mm512_castsi512_si256(last), inverse));
  const __m512i order = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
  return _mm512_permutex2var_epi64(_mm512_castsi256_si512(a), order, _mm512_castsi256_si512(b));
}

// The same with minus where a bit is not set: twice the entry, less the entry of all four.
FLWR_INLINE void make_signed(__m512i* first, __m512i* last) {
  const __m512i all = _mm512_shuffle_epi8(*last, _mm512_set1_epi16(0x0f0e));
  *first = _mm512_sub_epi16(_mm512_add_epi16(*first, *first), all);
  *last = _mm512_sub_epi16(_mm512_add_epi16(*last, *last), all);
}

void fast_tables(const int8_t* q, int64_t tiles, int8_t* fast, float* step) {
  for (int64_t t = 0; t < tiles; ++t) {
    __m512i first[4], last[4], top = _mm512_setzero_si512();
    FLWR_UNROLL
    for (int i = 0; i < 4; ++i) {
      entries(q + t * kTile + 16 * i, &first[i], &last[i]);
      make_signed(&first[i], &last[i]);
      top = _mm512_max_epi16(top, _mm512_max_epi16(_mm512_abs_epi16(first[i]),
                                                   _mm512_abs_epi16(last[i])));
    }
    const __m512i words = _mm512_max_epi16(top, _mm512_srli_epi32(top, 16));
    const int largest =
        _mm512_reduce_max_epi32(_mm512_and_si512(words, _mm512_set1_epi32(0xffff)));
    const __m512 inverse = _mm512_set1_ps(largest ? 63.0f / float(largest) : 0.0f);
    step[t] = float(largest) / 126.0f;
    FLWR_UNROLL
    for (int i = 0; i < 4; ++i) {
      _mm512_storeu_si512(fast + t * 256 + 64 * i, rounded_entries(first[i], last[i], inverse));
    }
  }
}

}  // namespace
}  // namespace flwr_edge
