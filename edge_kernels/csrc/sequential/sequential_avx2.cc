// LutSequential's kernels for AVX2: u8 by s8 into 16 bits, widened before they can overflow.
#include "sequential_kernels.h"

#include <cstring>
#include <immintrin.h>

namespace flwr_edge {
namespace {

constexpr int64_t kBlockBytes = kBlock * kStep;
constexpr int kHalf = 8;  // rows of a vector
// A product of two is at most 2 * 15 * 255 (zero points): four of them fit int16.
constexpr int kRun = 4;

// What half a block needs of the layer.
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

// Eight rows by P rows of activations from `first` on.
template <int P>
__m256i tile(const DenseJob& job, const Lines& at, int64_t first, __m256i mask, __m256i most) {
  const Dense& layer = *job.layer;
  const uint8_t* a = job.a + first * job.a_stride;
  const int8_t* values = at.values;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[P];
  for (int p = 0; p < P; ++p) acc[p] = _mm256_setzero_ps();
  for (int64_t s = 0; s < layer.segments; ++s) {
    __m256i dot[P];
    for (int p = 0; p < P; ++p) dot[p] = load(at.starts + s * kBlock);
    for (int left = layer.segment_steps[s]; left > 0; left -= kRun) {
      __m256i pairs[P];
      for (int p = 0; p < P; ++p) pairs[p] = _mm256_setzero_si256();
      for (int step = left < kRun ? left : kRun; step > 0; --step) {
        const __m256i w = load(values);
        for (int p = 0; p < P; ++p) {
          const __m256i x = broadcast_step(a + p * job.a_stride);
          pairs[p] = _mm256_add_epi16(pairs[p], _mm256_maddubs_epi16(x, w));
        }
        values += kBlockBytes;
        a += kStep;
      }
      for (int p = 0; p < P; ++p) {
        dot[p] = _mm256_add_epi32(dot[p], _mm256_madd_epi16(pairs[p], ones));
      }
    }
    const float* sa = job.scale + first * job.scale_stride + s / layer.halves * job.scale_step;
    for (int p = 0; p < P; ++p) {
      const __m256 scale_a = _mm256_set1_ps(sa[p * job.scale_stride]);
      __m256 u = _mm256_cvtepi32_ps(dot[p]);
      if (at.zeros) {
        const __m256 sum = _mm256_set1_ps(float(job.sums[(first + p) * layer.segments + s]));
        u = _mm256_fnmadd_ps(_mm256_loadu_ps(at.zeros + s * kBlock), sum, u);
      }
      acc[p] = at.scales ? _mm256_fmadd_ps(_mm256_mul_ps(u, scale_a),
                                           _mm256_loadu_ps(at.scales + s * kBlock), acc[p])
                         : _mm256_fmadd_ps(u, scale_a, acc[p]);
    }
  }
  const __m256 multiplier = _mm256_set1_ps(layer.multiplier), bias = _mm256_loadu_ps(at.bias);
  for (int p = 0; p < P; ++p) {
    __m256 v = acc[p];
    if (at.row_scales) v = _mm256_mul_ps(v, _mm256_loadu_ps(at.row_scales));
    v = _mm256_add_ps(_mm256_mul_ps(v, multiplier), bias);
    if (job.relu) v = _mm256_max_ps(_mm256_setzero_ps(), v);  // NaN stays: the second operand
    _mm256_maskstore_ps(job.y + (first + p) * job.y_stride + at.row, mask, v);
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), magnitude);
    most = _mm256_max_epu32(most, _mm256_and_si256(bits, mask));
  }
  return most;
}

uint32_t reduce(__m256i v) {
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
  uint32_t most = 0;
  for (int i = 0; i < 8; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

uint32_t dense(const DenseJob& job) {
  constexpr int kMost = 5;
  __m256i most = _mm256_setzero_si256();
  for (int64_t row = 0; row < job.layer->rows; row += kHalf) {
    const __m256i mask = first_lanes(job.layer->rows - row);
    const Lines at = lines_of(*job.layer, row);
    const int64_t parts = (job.m + kMost - 1) / kMost;
    int64_t done = 0;
    for (int64_t part = 0; part < parts; ++part) {  // as evenly as can be
      const int64_t count = (job.m - done + parts - part - 1) / (parts - part);
      switch (count) {
        case 1: most = tile<1>(job, at, done, mask, most); break;
        case 2: most = tile<2>(job, at, done, mask, most); break;
        case 3: most = tile<3>(job, at, done, mask, most); break;
        case 4: most = tile<4>(job, at, done, mask, most); break;
        default: most = tile<5>(job, at, done, mask, most); break;
      }
      done += count;
    }
  }
  return reduce(most);
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

const SequentialKernels* sequential_avx2() {
  static const SequentialKernels kernels{"avx2", dense, largest, quantize, quantize_transposed,
                                         reduce};
  return &kernels;
}

}  // namespace flwr_edge
